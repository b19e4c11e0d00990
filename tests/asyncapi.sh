#!/usr/bin/env bash
# Installs AsyncAPI's own parser under .peers/asyncapi; tests check docs/s2-over-mqtt.asyncapi.yaml with it. It needs
# node and npm. The second time it does nothing: the stamp holds the requirement.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted="@asyncapi/parser@3.6.3"
home=.peers/asyncapi
[ "$(cat "$home/.installed" 2>/dev/null)" = "$wanted" ] && exit
rm -rf "$home"
mkdir -p "$home"
if ! command -v npm >/dev/null || ! npm install --prefix "$home" --no-audit --no-fund --no-save --loglevel=error "$wanted" >/dev/null; then
  echo "tests/asyncapi.sh: the parser could not be installed (npm install $wanted); the test that needs it will be skipped." >&2
  exit 1
fi
echo "$wanted" >"$home/.installed"
