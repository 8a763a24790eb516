#!/usr/bin/env bash
# Fills the passwords of the environment into definitions.json, as salted hashes, and starts the
# image's own entrypoint. RabbitMQ imports the file at every start, so a new password in .env holds
# from the next one on. Needs bash and coreutils only.
set -euo pipefail

# https://www.rabbitmq.com/docs/passwords: base64 of four random bytes and SHA-256 of them and the
# password. Bytes travel as \x.., since a variable cannot hold a zero.
hash_of() {
    local salt digest
    salt=$(od -An -N4 -tx1 /dev/urandom | sed 's/ /\\x/g')
    # shellcheck disable=SC2059 # the format is the bytes
    digest=$({ printf "$salt"; printf %s "$1"; } | sha256sum | cut -c1-64 | sed 's/../\\x&/g')
    # shellcheck disable=SC2059
    printf "$salt$digest" | base64 -w0
}

definitions=$(cat /postroad/definitions.json)
for user in RABBITMQ RABBITMQ_SCHEDULER RABBITMQ_WORKER RABBITMQ_MONITORING; do
    name=${user}_PASSWORD
    definitions=${definitions//@$name@/$(hash_of "${!name:?}")}
    unset "$name"
done
(umask 077; printf '%s\n' "$definitions" > /run/postroad/definitions.json)
# Where this starts as root, the server will not be.
[[ $(id -u) != 0 ]] || chown rabbitmq /run/postroad/definitions.json
exec docker-entrypoint.sh "$@"
