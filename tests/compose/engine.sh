# shellcheck shell=bash
# A Docker engine of the test's own. Sourced by run.sh and build-images.sh.
#
# Its socket, process ids and images are private, it makes no bridge of its own and does not touch
# iptables or ip_forward, so that when it has stopped nothing is left but its cache.

compose_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$compose_dir/../.." && pwd)
cache=$repo/.postroad/compose

engine_pid=
engine_run=

log() { echo "compose: $*" >&2; }
die() { log "$*"; exit 1; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < deadline)) || { log "gave up waiting for $what after $seconds s"; return 1; }
        sleep 0.5
    done
}

start_engine() {
    [[ $(id -u) == 0 ]] || die "the test starts an engine of its own and must be root for it (or see --running)"
    mkdir -p "$cache"
    # Not below the repository: the path of a socket may have 107 characters.
    engine_run=$(mktemp -d /tmp/postroad-compose.XXXXXX)
    export DOCKER_HOST=unix://$engine_run/docker.sock
    # Its own session: Ctrl-C must reach the script, which still needs the engine to clean up.
    # The id is kept beside the data, so that a second engine on the same data refuses to start.
    setsid dockerd --host "$DOCKER_HOST" --pidfile "$cache/dockerd.pid" \
        --exec-root "$engine_run/exec" --data-root "$cache/docker" \
        --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        --default-address-pool base=10.213.0.0/16,size=24 \
        > "$cache/dockerd.log" 2>&1 &
    engine_pid=$!
    if ! wait_for 60 "the engine" engine_settled || ! docker info > /dev/null 2>&1; then
        tail -n 3 "$cache/dockerd.log" >&2
        die "dockerd did not start, see $cache/dockerd.log"
    fi
}

# It answers, or it has given up.
engine_settled() { docker info || ! kill -0 "$engine_pid"; }

stop_engine() {
    [[ -n $engine_pid ]] || return 0
    kill "$engine_pid" 2> /dev/null || true
    wait "$engine_pid" 2> /dev/null || true
    # The engine leaves the mount of its network namespace behind.
    umount "$engine_run"/exec/netns/* 2> /dev/null || true
    rm -rf "$engine_run"
    engine_pid=
}
