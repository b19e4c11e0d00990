#!/bin/sh
# Sets the endpoint up by the options of the add-on on its first start, and runs it.
set -eu
data=${S2CONNECT_ADDON_DATA:-/data}
option() {
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$data/options.json" "$1"
}
S2CONNECT_HOME=$data/home
S2CONNECT_LOG_LEVEL=$(option log_level)
export S2CONNECT_HOME S2CONNECT_LOG_LEVEL
name=$(option name)
port=$(option port)
if [ -e "$S2CONNECT_HOME/config.json" ]; then
  s2connect config set name "$name" port "$port" --yes
else
  role=$(option role)
  host=$(option host)
  s2connect init --role "$role" --name "$name" --host "$host" --port "$port" --vault files
fi
exec s2connect serve --page-port "${S2CONNECT_ADDON_PAGE_PORT:-8480}"
