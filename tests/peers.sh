#!/usr/bin/env bash
# Installs the software of peers that tests and benchmarks talk to, each in an environment of its own under .peers,
# because it pins dependencies that differ from ours. The second time it does nothing: the stamp holds the requirement.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"

install() {
  local name="$1" stamp=".peers/$1/.installed" wanted
  shift
  wanted="$*"
  case " $wanted " in *" -e . "*) wanted="$wanted with $(cksum <pyproject.toml)" ;; esac # it has our dependencies, too
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  rm -rf ".peers/$name"
  if ! "$PYTHON" -m venv ".peers/$name" || ! ".peers/$name/bin/python" -m pip install --quiet "$@"; then
    echo "tests/peers.sh: $name could not be installed (pip install $*); tests that need it will be skipped." >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

failed=0
install s2auth "s2auth[client,server]==0.1.0" || failed=1
# Without its extra "ws", which pins an old websockets; with this package, whose medium it uses.
install s2python "s2-python==0.11.1" "websockets>=14" -e . || failed=1
install flexmeasures "flexmeasures-client[s2]==0.9.6" || failed=1
# A plain script to compare our bridge with, in benchmarks.
install aiomqtt "aiomqtt==2.5.1" "websockets>=14" || failed=1
# A broker of another maker than Mosquitto's, in Go; without Go its test is skipped.
if command -v go >/dev/null; then
  mochi="github.com/mochi-mqtt/server/v2/cmd@v2.7.9"
  if [ "$(cat .peers/mochi/.installed 2>/dev/null)" != "$mochi" ]; then
    if mkdir -p .peers/mochi && GOBIN="$PWD/.peers/mochi" go install "$mochi" 2>/dev/null; then
      echo "$mochi" >.peers/mochi/.installed
    else
      echo "tests/peers.sh: mochi could not be installed (go install $mochi); its test will be skipped." >&2
      failed=1
    fi
  fi
fi
# A program of ours that stands on s2-kit, from the Rust registry; it takes a minute. Without Rust 1.94 or later its tests are skipped.
rust=$(cargo --version 2>/dev/null | cut -d. -f2) || rust=0
if [ "$rust" -ge 94 ]; then
  source=tests/interop/s2kit
  sum="$(cat $source/Cargo.toml $source/src/*.rs | sha256sum)"
  if [ "$(cat .peers/s2kit/.installed 2>/dev/null)" != "$sum" ]; then
    if cargo build --quiet --manifest-path $source/Cargo.toml --target-dir .peers/s2kit/target; then
      echo "$sum" >.peers/s2kit/.installed
    else
      echo "tests/peers.sh: s2-kit could not be built (cargo build); its tests will be skipped." >&2
      failed=1
    fi
  fi
fi
exit "$failed"
