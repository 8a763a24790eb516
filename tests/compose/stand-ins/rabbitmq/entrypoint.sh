#!/usr/bin/env bash
# Like the official image: starts as root to own the volume, runs as rabbitmq.
set -euo pipefail

if [[ $(id -u) == 0 ]]; then
    chown -R rabbitmq: /var/lib/rabbitmq
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$0" "$@"
fi
exec "$@"
