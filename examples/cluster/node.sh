#!/bin/sh
# One of two PostgreSQL nodes, each of which confirms what the other commits: a commit that a client was told is on both.
# NODE and OTHER are their host names; FIRST is "yes" at the one that makes the database at the very first start.
# A node without data copies the other one, and is its standby. Promote a standby, when the other node is lost, with:
#   psql -h /tmp -U postgres -c 'SELECT pg_promote()'
# It commits again as soon as the other node, without its data, has come back as its standby.
set -eu
umask 077

# What another node says: t while it is a standby, f while it is the primary, nothing while it is down.
other() {
  PGPASSWORD="$STANDBY_PASSWORD" PGCONNECT_TIMEOUT=3 \
    psql -h "$OTHER" -U standby -d postgres -Atqc 'SELECT pg_is_in_recovery()' 2>/dev/null || true
}

if [ -s "$PGDATA/PG_VERSION" ]; then
  if [ ! -e "$PGDATA/standby.signal" ] && [ "$(other)" = f ]; then
    echo "$OTHER is the primary now. What only this node has was confirmed to nobody: remove $PGDATA, and start it again." >&2
    exit 1
  fi
elif [ "$(other)" = f ]; then
  rm -rf "$PGDATA"
  PGPASSWORD="$STANDBY_PASSWORD" pg_basebackup -D "$PGDATA" -R -X stream \
    -d "host=$OTHER user=standby application_name=$NODE"
elif [ "${FIRST:-}" = yes ]; then
  initdb -D "$PGDATA" -U postgres --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --locale=C >/dev/null
  printf '%s\n' 'host all s2,standby samenet scram-sha-256' 'host replication standby samenet scram-sha-256' \
    >>"$PGDATA/pg_hba.conf"
  postgres --single -D "$PGDATA" postgres >/dev/null <<SQL
CREATE ROLE s2 LOGIN PASSWORD '$PGPASSWORD'
CREATE ROLE standby LOGIN REPLICATION PASSWORD '$STANDBY_PASSWORD'
CREATE DATABASE s2 OWNER s2 ENCODING 'UTF8'
SQL
else
  echo "$OTHER is not there yet." >&2
  sleep 2
  exit 1
fi
exec postgres -D "$PGDATA" -c listen_addresses="${LISTEN:-*}" -c unix_socket_directories="${SOCKETS:-/tmp}" -c wal_keep_size=1GB \
  -c synchronous_commit=on -c "synchronous_standby_names=ANY 1 (\"$NODE\", \"$OTHER\")"
