#!/usr/bin/env bash
# Has schemathesis (from PyPI) ask a running API whatever its own description allows and forbids, with
# a tenant's token and with an operator's: no answer may be a 5xx, and none may be undocumented.
#
#   tests/openapi/run.sh [SECONDS]       for each of the two tokens; 120 unless said
#
# Needs python3 with venv, and the programs of `cargo build`. Servers and programs are its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Named, so that what it finds today it finds tomorrow.
schemathesis=4.32.5
venv=.postroad/openapi/venv-$schemathesis
checks=not_a_server_error,status_code_conformance,content_type_conformance
checks+=,response_schema_conformance,response_headers_conformance,unsupported_method,ignored_auth

# Not POSTROAD_URL: whoever has it set must not have that API asked.
if [[ ${1:-} != --inside ]]; then
    cargo build --quiet --workspace --bins
    [[ -x $venv/bin/schemathesis ]] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "schemathesis==$schemathesis"; }
    exec env -u DATABASE_URL -u AMQP_URL \
        target/debug/postroad dev --dir .postroad/openapi --fresh -- tests/openapi/run.sh --inside "${1:-120}"
fi
seconds=$2

for owner in "--tenant default" "--operator"; do
    # Two words or one: options of the command.
    # shellcheck disable=SC2086
    token=$(target/debug/postroad tokens create $owner --name schemathesis)
    # Bodies of lines are the one thing that it cannot make.
    "$venv/bin/schemathesis" run "$POSTROAD_URL/openapi.json" --header "Authorization: Bearer $token" \
        --checks "$checks" --phases coverage,fuzzing --workers 1 --max-time "$seconds" \
        --exclude-path /v1/jobs/batch --exclude-path /v1/recipients/batch --warnings off
done
