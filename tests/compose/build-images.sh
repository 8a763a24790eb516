#!/usr/bin/env bash
# Builds stand-ins, out of Debian packages, for the images that Dockerfile and docker-compose.yml
# name. For machines that reach a Debian mirror but no image registry.
#
# They carry the names of the official images, so they belong into an engine that nobody else uses:
# run.sh starts one. By hand: DOCKER_HOST=unix:///… tests/compose/build-images.sh
#
#   build-images.sh --servers bookworm 15     only the servers of one Debian, with that Postgres, as
#                                             stand-in-postgres:bookworm and stand-in-rabbitmq:bookworm
set -euo pipefail
# shellcheck source=tests/compose/engine.sh
source "$(dirname "$0")/engine.sh"

export DOCKER_BUILDKIT=0 # the client may be of another version than the engine

# The mirror that apt on this machine uses.
mirror() {
    # shellcheck disable=SC2016 # apt-get expands it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' | head -n 1
}

has_image() { docker image inspect "$1" > /dev/null 2>&1; }

# build TAG ARGUMENT...
build() {
    local tag=$1
    shift
    nice docker build --network host --tag "$tag" "$@" > "$cache/build.log" 2>&1 \
        || { tail -n 40 "$cache/build.log" >&2; die "$tag could not be built"; }
}

# base SUITE SCRIPT: the smallest Debian of that suite, as stand-in-base:SUITE.
base() {
    local suite=$1 script=$2 rootfs=$cache/$1.rootfs tarball=$cache/$1.tar
    has_image "stand-in-base:$suite" && return
    if [[ ! -s $tarball ]]; then
        log "debootstrap $suite"
        rm -rf "$rootfs"
        nice debootstrap --variant=minbase "$suite" "$rootfs" "$(mirror)" \
            "/usr/share/debootstrap/scripts/$script" > "$cache/debootstrap-$suite.log"
        rm -f "$rootfs"/var/cache/apt/archives/*.deb
        # A mirror that stands still is good enough for a test.
        echo 'Acquire::Check-Valid-Until "false";' > "$rootfs/etc/apt/apt.conf.d/stand-in"
        tar -C "$rootfs" -c . > "$tarball.new"
        mv "$tarball.new" "$tarball"
        rm -rf "$rootfs"
    fi
    docker import "$tarball" "stand-in-base:$suite" > /dev/null
}

# server NAME TAG SUITE [ARGUMENT...]: builds stand-ins/NAME on that base.
server() {
    local name=$1 tag=$2 suite=$3
    shift 3
    log "$tag"
    build "$tag" --build-arg BASE="stand-in-base:$suite" "$@" "$compose_dir/stand-ins/$name"
}

# debootstrap of bookworm does not know forky, which is made the same way as sid.
script_of() { if [[ -e /usr/share/debootstrap/scripts/$1 ]]; then echo "$1"; else echo sid; fi; }

# rust TAG: a compiler's image out of the toolchain of this machine.
rust() {
    local tag=$1 sysroot container toolchain
    toolchain=$(rustc --version)
    sysroot=$(rustc --print sysroot)
    [[ $(docker image inspect --format '{{.Config.Labels.toolchain}}' "$tag" 2> /dev/null) == "$toolchain" ]] && return
    log "$tag ($toolchain)"
    build stand-in-base:cc - <<'DOCKERFILE'
FROM stand-in-base:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev make pkg-config
DOCKERFILE
    container=$(docker create --network none stand-in-base:cc true)
    tar -C "$sysroot" -c bin/cargo bin/rustc lib | docker cp - "$container:/usr/local"
    cargo_config | docker cp - "$container:/usr/local"
    # This machine may trust more roots than Debian does, and reach the crates only through those.
    docker cp --follow-link /etc/ssl/certs/ca-certificates.crt "$container:/etc/ssl/certs/ca-certificates.crt"
    docker commit --change 'ENV CARGO_HOME=/usr/local/cargo' --change "LABEL toolchain=\"$toolchain\"" \
        "$container" "$tag" > /dev/null
    docker rm "$container" > /dev/null
}

# cargo/config.toml as a tar archive: where this machine takes its crates from. No credentials.
cargo_config() {
    local home=${CARGO_HOME:-$HOME/.cargo} copy
    copy=$(mktemp -d)
    mkdir "$copy/cargo"
    [[ ! -e $home/config.toml ]] || cp "$home/config.toml" "$copy/cargo/"
    tar -C "$copy" -c cargo
    rm -rf "$copy"
}

# The names, from the files that use them.
image_of() { sed -n "s|^ *image: *\\($1:.*\\)$|\\1|p" "$repo/docker-compose.yml" | sort -u; }
build_arg() { sed -n "s/^ARG $1=//p" "$repo/Dockerfile"; }

mkdir -p "$cache"
if [[ ${1:-} == --servers ]]; then
    suite=$2
    base "$suite" "$(script_of "$suite")"
    server postgres "stand-in-postgres:$suite" "$suite" --build-arg MAJOR="$3"
    server rabbitmq "stand-in-rabbitmq:$suite" "$suite"
    exit
fi
for suite in bookworm forky; do base "$suite" "$(script_of "$suite")"; done
docker tag stand-in-base:bookworm "$(build_arg RUNTIME_IMAGE)"
rust "$(build_arg RUST_IMAGE)"
server postgres "$(image_of postgres)" forky
server rabbitmq "$(image_of rabbitmq)" forky
server prometheus "$(image_of prom/prometheus)" forky
