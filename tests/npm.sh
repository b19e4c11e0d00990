#!/usr/bin/env bash
# Installs what tests need from npm under .peers: AsyncAPI's own parser, which checks docs/s2-over-mqtt.asyncapi.yaml, and
# axe-core, which checks that everybody can use the page. It needs node and npm. The second time it does nothing: a stamp
# holds the requirement.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
need() { # need NAME PACKAGE@VERSION
  local home=".peers/$1"
  [ "$(cat "$home/.installed" 2>/dev/null)" = "$2" ] && return
  rm -rf "$home"
  mkdir -p "$home"
  if command -v npm >/dev/null && npm install --prefix "$home" --no-audit --no-fund --no-save --loglevel=error "$2" >/dev/null; then
    echo "$2" >"$home/.installed"
  else
    echo "tests/npm.sh: $2 could not be installed (npm install $2); the tests that need it will be skipped." >&2
    failed=1
  fi
}
need asyncapi @asyncapi/parser@3.6.3
need axe axe-core@4.10.3
exit "$failed"
