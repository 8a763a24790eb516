#!/usr/bin/env bash
# Checks everything under deploy/ and docker-compose.yml with the tools that are here, and says which
# checks it had to skip. With --all, a skipped check fails.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check WHAT COMMAND...
check() {
    local what=$1
    shift
    if "$@" > "$work/output" 2>&1; then
        echo "ok    $what"
    else
        failed=$((failed + 1))
        echo "FAIL  $what"
        sed 's/^/      /' "$work/output"
    fi
}

# needs TOOL WHERE WHAT: whether TOOL is here; WHAT is skipped otherwise.
needs() {
    ! command -v "$1" > /dev/null || return 0
    skipped=$((skipped + 1))
    echo "skip  $3: $1 is not here ($2)"
    return 1
}

compose_is_valid() {
    deploy/make-env.sh "$work/env"
    docker-compose --env-file "$work/env" config --quiet
    docker-compose --env-file "$work/env" --profile tools --profile demo --profile observability config --quiet
}

# A file that is there keeps its passwords, and gets those that it lacks.
env_is_completed() {
    printf 'POSTGRES_PASSWORD=kept\n' > "$work/old"
    deploy/make-env.sh "$work/old"
    deploy/make-env.sh "$work/old"
    grep -x 'POSTGRES_PASSWORD=kept' "$work/old"
    [[ $(grep -c _PASSWORD= "$work/old") == "$(grep -c '_PASSWORD=$' .env.sample)" ]]
    ! grep -x '.*_PASSWORD=' "$work/old"
}

promtool_() { (cd deploy/prometheus && promtool "$@"); }

# Every expression of the dashboard, as if each were a recording rule.
dashboard_expressions_parse() {
    jq '{groups: [{name: "dashboard", rules: [[.panels[].targets[].expr] | to_entries[]
        | {record: "panel:\(.key)", expr: (.value | gsub("\\$__rate_interval"; "1m"))}]}]}' \
        deploy/grafana/dashboards/postroad.json > "$work/dashboard.yml"
    promtool check rules "$work/dashboard.yml"
}

# In a root of their own, where the programs exist: they need not be installed here.
units_are_valid() {
    local root=$work/root program
    mkdir -p "$root/usr/bin" "$root/etc/systemd/system" "$root/usr/lib/systemd"
    cp -r /usr/lib/systemd/system "$root/usr/lib/systemd/"
    for program in postroad postroad-api postroad-scheduler postroad-worker; do
        cp /bin/true "$root/usr/bin/$program"
    done
    cp deploy/systemd/*.service "$root/etc/systemd/system/"
    systemd-analyze verify --root="$root" postroad-{api,scheduler,migrate,worker@1}.service
}

# 0 is locked in, 10 has every right: ours stay at 1.5 or below.
unit_is_confined() { systemd-analyze security --no-pager --offline=true --threshold=15 "$1"; }

manifests_build() { kubectl kustomize "$1" > "$work/$(basename "$1").yaml"; }

if needs docker-compose "Debian: docker-compose" "compose file"; then
    check "compose file, with all profiles" compose_is_valid
fi
check ".env is completed, and keeps its passwords" env_is_completed
if needs shellcheck "Debian: shellcheck" "shell scripts"; then
    check "shell scripts" shellcheck -x deploy/*.sh deploy/*/*.sh tests/compose/*.sh tests/compose/stand-ins/*/*.sh
fi
if needs jq "Debian: jq" "JSON, and the dashboard"; then
    check "JSON" jq -e . deploy/rabbitmq/definitions.json deploy/grafana/dashboards/postroad.json
fi
if needs promtool "Debian: prometheus" "Prometheus configuration and alerts"; then
    check "Prometheus configuration" promtool_ check config prometheus.yml
    check "alerts" promtool_ check rules rules.yml
    check "when alerts come" promtool_ test rules rules.test.yml
    ! command -v jq > /dev/null || check "the dashboard's expressions" dashboard_expressions_parse
fi
if needs systemd-analyze "Debian: systemd" "systemd units"; then
    check "systemd units" units_are_valid
    for unit in deploy/systemd/*.service; do
        check "$(basename "$unit") is confined" unit_is_confined "./$unit"
    done
fi
if needs kubectl "https://kubernetes.io/docs/tasks/tools" "Kubernetes manifests"; then
    check "Kubernetes manifests build" manifests_build deploy/kubernetes/base
    check "and those for operators" manifests_build deploy/kubernetes/operators
    if needs kubernetes-validate "pip install kubernetes-validate" "Kubernetes manifests by their schema"; then
        check "Kubernetes manifests by their schema" \
            kubernetes-validate --strict "$work/base.yaml" deploy/kubernetes/base/secrets.example.yaml
    fi
fi

echo "deploy: $failed failed, $skipped skipped"
((failed == 0)) && { [[ ${1:-} != --all ]] || ((skipped == 0)); }
