#!/usr/bin/env bash
# Does what the official image does at its first start, for the three variables that Postroad sets.
set -euo pipefail

create_database() {
    initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    # Like the official image: a server that can only be reached through its socket, so that a
    # health check over TCP does not succeed too early.
    pg_ctl -w start -o "-c listen_addresses=''"
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w stop -m fast
}

if [[ $(id -u) == 0 ]]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
[[ -s $PGDATA/PG_VERSION ]] || create_database
exec "$@"
