#!/usr/bin/env bash
# Runs the tests against real servers once for each pair of servers that Debian ships, and writes
# docs/MATRIX.md.
#
#   tests/matrix/run.sh                    every suite below, one after the other
#   tests/matrix/run.sh bookworm forky     only these; the rows of the others stay as they are
#
# Needs root and a Debian mirror: the servers run in an engine of its own, in the images that
# tests/compose/build-images.sh makes of Debian's packages, on loopback ports of this machine.
# The tests are those of what depends on servers: the store's statements, and whole clusters. Left out
# are those that bring servers of their own, which are always this machine's.
# The whole output of the runs is kept in .postroad/matrix/.
set -euo pipefail
# shellcheck source=tests/compose/engine.sh
source "$(dirname "$0")/../compose/engine.sh"

# As many at once as in `make test`: they mostly wait.
threads=$((2 * $(nproc) < 8 ? 2 * $(nproc) : 8))

# suite and the major version of its Postgres
suites=("bookworm 15" "trixie 17" "forky 18")
names=(store_ cluster_)
own_servers=(cluster_outage::)

out=$repo/.postroad/matrix
page=$repo/docs/MATRIX.md
failures=0

log() { echo "matrix: $*" >&2; }

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    # Without an engine of ours there is nothing of ours to remove.
    [[ -z $engine_pid ]] || stop_servers
    stop_engine
    exit "$status"
}

stop_servers() { docker rm --force --volumes matrix-postgres matrix-rabbitmq > /dev/null 2>&1 || true; }

# As many free ports as asked for, one a line.
free_ports() {
    python3 -c '
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
    print(one.getsockname()[1])' "$1"
}

# What `postroad dev` sets for the servers that it starts itself, so that the tests meet the same.
start_servers() {
    local suite=$1 ports
    mapfile -t ports < <(free_ports 5)
    postgres_port=${ports[0]} amqp_port=${ports[1]} management_port=${ports[2]}
    docker run --detach --network host --name matrix-postgres \
        --env POSTGRES_USER=postroad --env POSTGRES_PASSWORD=matrix --env POSTGRES_DB=postroad \
        "stand-in-postgres:$suite" postgres -c "port=$postgres_port" -c listen_addresses=127.0.0.1 \
        -c max_connections=200 -c autovacuum_naptime=10s > /dev/null
    cat > "$out/rabbitmq.conf" <<CONF
listeners.tcp.default = 127.0.0.1:$amqp_port
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = ${ports[4]}
default_vhost = postroad
default_user = postroad
default_pass = matrix
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
log.console.level = warning
CONF
    docker run --detach --network host --name matrix-rabbitmq --ulimit nofile=16384:16384 \
        --env RABBITMQ_NODENAME=matrix@localhost --env RABBITMQ_DIST_PORT="${ports[3]}" \
        --env ERL_EPMD_PORT="$(free_ports 1)" --env ERL_EPMD_ADDRESS=127.0.0.1 \
        --volume "$out/rabbitmq.conf:/etc/rabbitmq/conf.d/90-matrix.conf:ro" \
        "stand-in-rabbitmq:$suite" > /dev/null
    management=http://postroad:matrix@127.0.0.1:$management_port
    wait_for 60 "Postgres of $suite" sql "select 1"
    wait_for 120 "RabbitMQ of $suite" curl -fsS "$management/api/overview"
}

sql() { docker exec --env PGPASSWORD=matrix matrix-postgres psql -XAtq -h 127.0.0.1 -p "$postgres_port" -U postroad -d postroad -c "$1"; }
broker() { curl -fsS "$management/api/overview" | python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }

# run SUITE: the tests against the servers that run, and a row for the page.
run() {
    local suite=$1 status=0 result skips=()
    for name in "${own_servers[@]}"; do skips+=(--skip "$name"); done
    DATABASE_URL="postgres://postroad:matrix@127.0.0.1:$postgres_port/postroad" \
        AMQP_URL="amqp://postroad:matrix@127.0.0.1:$amqp_port/postroad" \
        POSTROAD_MANAGEMENT_URL=$management RUST_TEST_THREADS=${RUST_TEST_THREADS:-$threads} \
        cargo test --quiet -p postroad-tests --test it -- "${names[@]}" "${skips[@]}" > "$out/$suite.log" 2>&1 || status=$?
    # test result: ok. 171 passed; 0 failed; 0 ignored; 0 measured; 23 filtered out; finished in …
    result=$(sed -n 's/^test result: [A-Za-z]*\. \([0-9]*\) passed; \([0-9]*\) failed.*finished in \([0-9]*\).*/\1 | \2 | \3 s/p' "$out/$suite.log")
    if ((status != 0)); then
        failures=$((failures + 1))
        log "$suite failed:"
        grep -E '^    [a-z_0-9]+::' "$out/$suite.log" | sort -u >&2 || tail -n 20 "$out/$suite.log" >&2
    fi
    printf '| %s | %s | %s (Erlang %s) | %s | %s |\n' "$suite" "$(sql 'show server_version' | cut -d' ' -f1)" \
        "$(broker rabbitmq_version)" "$(broker erlang_version)" "${result:-did not run | | }" "$(date -u +%F)" \
        > "$out/$suite.row"
    log "$(cat "$out/$suite.row")"
}

write_page() {
    {
        cat <<'PAGE'
# Servers that the tests have passed against

Written by `make matrix`: the tests `store_*` and `cluster_*` of `tests/it`, which ask real servers and start real programs on them, once for each pair of servers that a release of Debian ships.
The versions are what the servers themselves said.
Tests that break servers of their own (`cluster_outage`) are not among them: they run in `make test`, against whatever is installed.

| Debian | Postgres | RabbitMQ | passed | failed | took | on |
|---|---|---|---|---|---|---|
PAGE
        for entry in "${suites[@]}"; do cat "$out/${entry% *}.row" 2> /dev/null || true; done
    } > "$page"
}

main() {
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$out"
    # The rows of the page that there is, for suites that are not run this time.
    if [[ -e $page ]]; then
        for entry in "${suites[@]}"; do grep "^| ${entry% *} " "$page" > "$out/${entry% *}.row" || true; done
    fi
    nice cargo build --quiet --workspace --bins --examples
    nice cargo test --quiet -p postroad-tests --test it --no-run
    start_engine
    for entry in "${suites[@]}"; do
        read -r suite major <<< "$entry"
        [[ $# == 0 || " $* " == *" $suite "* ]] || continue
        "$compose_dir/build-images.sh" --servers "$suite" "$major"
        start_servers "$suite"
        run "$suite"
        stop_servers
        write_page
    done
    ((failures == 0))
}

cd "$repo"
main "$@"
