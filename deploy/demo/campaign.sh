#!/usr/bin/env bash
# Sends text messages to made-up numbers, waits until none is on its way, and says what reached the
# simulated provider: the report of `make demo`, against a cluster that runs in containers.
# `held` are those whose worker was lost in mid-effect: they wait for somebody's decision.
#
# Needs bash, coreutils, grep and sed, and `postroad` with DATABASE_URL and AMQP_URL.
set -euo pipefail
recipients=${RECIPIENTS:?how many messages}
provider=${PROVIDER:-provider 9400}
# A tenant that no campaign before this one had.
tenant=demo-$(date +%s)

# What the provider counted, a word and a number.
counted() {
    local host port
    read -r host port <<< "$provider"
    exec 3<> "/dev/tcp/$host/$port"
    printf 'GET /report HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$host" >&3
    grep -oE "\"$1\": ?[0-9]+" <&3 | head -n 1 | grep -oE '[0-9]+$'
    exec 3<&-
}

# How many of this campaign's jobs are in a state, by the ledger.
in_state() { grep -oE "\"$1\": ?[0-9]+" <<< "$ledger" | head -n 1 | grep -oE '[0-9]+$'; }
# The queues that it also lists have words in common with the tenant.
read_ledger() {
    ledger=$(postroad ledger --json --tenant "$tenant") || [[ $? == 3 ]]
    ledger=${ledger#*\"tenants\":}
}

is_under_way() {
    local state
    read_ledger
    for state in scheduled dispatched running failed; do
        [[ $(in_state "$state") == 0 ]] || return 0
    done
    return 1
}

delivered_before=$(counted delivered)
duplicates_before=$(counted duplicates)
started=$(date +%s%N)
seq -f '%09.0f' "$recipients" \
    | sed "s/.*/{\"kind\":\"sms\",\"queue\":\"sms\",\"tenant\":\"$tenant\",\"args\":{\"to\":\"+999&\",\"text\":\"Hello! Your parcel arrives today.\"}}/" \
    | postroad enqueue --file - > /dev/null
accepted_at=$(date +%s%N)
while is_under_way; do sleep 0.2; done
ended=$(date +%s%N)

delivered=$(($(counted delivered) - delivered_before))
duplicates=$(($(counted duplicates) - duplicates_before))
held=$(in_state held)
given_up=$(($(in_state dead) + $(in_state cancelled) + $(in_state expired)))
# A held message may have arrived; it is not lost either way.
missing=$((recipients - delivered - held - given_up))
lost=$((missing > 0 ? missing : 0))

seconds() { printf '%d.%02d' $(($1 / 1000000000)) $(($1 / 10000000 % 100)); }
printf 'accepted=%d\ndelivered=%d\nlost=%d\nduplicates=%d\n' "$recipients" "$delivered" "$lost" "$duplicates"
printf 'accept_seconds=%s\nheld=%d\n' "$(seconds $((accepted_at - started)))" "$held"
printf 'drain_seconds=%s\njobs_per_second=%d\n' "$(seconds $((ended - started)))" \
    $((delivered * 1000 / ((ended - started) / 1000000 + 1)))
((lost == 0 && duplicates == 0))
