#!/usr/bin/env bash
# Tries docker-compose.yml: builds the image, starts everything with four workers, sends jobs, scales
# to eight workers, kills one, sends more over the API too, stops and starts everything again, and
# takes it all down. On the way it looks at what each program's users may do.
#
#   tests/compose/run.sh             with an engine of its own and stand-ins for the official images
#                                    (Debian, root; build-images.sh says why)
#   tests/compose/run.sh --running   with the engine that runs here and the official images
#
# Variables: COMPOSE (default docker-compose; "docker compose" works too), JOBS (per round, 200).
set -euo pipefail
# shellcheck source=tests/compose/engine.sh
source "$(dirname "$0")/engine.sh"

project=postroad-compose-test
jobs=${JOBS:-200}
passed=0
failed=0
read -ra compose_command <<< "${COMPOSE:-docker-compose}"
compose_files=(-f "$repo/docker-compose.yml")
work=$(mktemp -d)

# === What Postroad is asked to do; the only lines that know its commands and tables ===

# Through the command line, in a container that is there anyway.
send_jobs() {
    seq "$1" | sed 's/.*/{"kind":"echo","args":{"n":&}}/' | cli enqueue --file -
}

cli() { compose run --rm -T cli "$@"; }

make_token() {
    cli tokens create --tenant default --name compose-test > "$work/token"
    cut -c 1-8 "$work/token"
    # A header file, so that the token is no argument that other users see.
    printf 'Authorization: Bearer %s\n' "$(cat "$work/token")" > "$work/authorization"
}

# api PATH [CURL ARGUMENT...]
api() {
    local path=$1
    shift
    curl -sS --fail-with-body --max-time 10 -H "@$work/authorization" "$@" "http://127.0.0.1:$api_port$path"
}

send_a_job_over_http() {
    api /v1/jobs -H 'Content-Type: application/json' -d '{"kind":"echo","args":{"over":"http"}}' | tee "$work/job"
    job=$(grep -oE '"id": ?"[0-9a-f-]{36}"' "$work/job" | head -n 1 | grep -oE '[0-9a-f-]{36}')
    echo "$job" > "$work/job-id"
}

the_job_is_completed() { api "/v1/jobs/$(cat "$work/job-id")" | grep -E '"state": ?"completed"'; }
the_job_completes() { wait_for 30 "the job" the_job_is_completed || api "/v1/jobs/$(cat "$work/job-id")"; }

# Queues that nobody has used before, in one worker: the scheduler declares them, with and without
# a job.
a_new_queue_works() {
    compose run --rm -d -e POSTROAD_QUEUES=brand-new,without-jobs worker > "$work/new-worker"
    cli enqueue --kind echo --queue brand-new
    wait_for 90 "the job in the new queue" completed_are "$1"
    docker stop "$(tail -n 1 "$work/new-worker")"
    # What the scheduler may not declare must not cost it the connection that it publishes over.
    ! compose logs --no-color scheduler | grep 'rabbitmq_publish: [^"]*did not answer'
}

# As any program with a connection to the database would.
send_jobs_by_sql() {
    sql "select count(postroad.enqueue('echo', '{}', run_at => now() + n * interval '10 ms')) from generate_series(1, $1) n"
}

completed() { sql "select count(*) from postroad.jobs where state = 'completed' and kind = 'echo'"; }
states() { sql "select state, count(*) from postroad.jobs group by state"; }

# === Plumbing ===

compose() { "${compose_command[@]}" --project-name "$project" --env-file "$work/env" "${compose_files[@]}" "$@"; }
sql() { compose exec -T postgres psql -XAtq -v ON_ERROR_STOP=1 -U postroad -d postroad -c "$1"; }
containers() { docker ps -aq --filter "label=com.docker.compose.project=$project" "$@"; }
containers_of() { containers --filter "label=com.docker.compose.service=$1"; }
healthy() { containers_of "$1" | xargs -r docker inspect --format '{{.State.Health.Status}}' | grep -cx healthy || true; }
has_healthy() { [[ $(healthy "$1") == "$2" ]]; }
exit_codes_are_zero() { ! docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$@" | grep -vx 'exited 0'; }
sql_as() { compose exec -T -e PGPASSWORD="$(secret "POSTGRES_${1^^}_PASSWORD")" postgres psql -XAtq -h 127.0.0.1 -U "$1" -d postroad -c "$2"; }
secret() { sed -n "s/^$1=//p" "$work/env"; }
pages() { curl -sS --fail-with-body --max-time 10 -u "$1:$(secret "$2")" "http://127.0.0.1:$admin_port/api/$3"; }

# check WHAT COMMAND...: in a subshell of its own, so that the first failing line ends it.
check() {
    local what=$1 started=$SECONDS status
    shift
    set +e
    (set -e; "$@") > "$work/check" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        passed=$((passed + 1))
        echo "ok    $what ($((SECONDS - started)) s)"
    else
        failed=$((failed + 1))
        echo "FAIL  $what ($((SECONDS - started)) s)"
        sed 's/^/      /' "$work/check"
    fi
}

# need WHAT COMMAND...: what the checks after it cannot do without.
need() {
    local before=$failed
    check "$@"
    ((failed == before)) || { summary; exit 1; }
}

summary() {
    ((failed == 0)) || log "what the services said is in $cache/services.log"
    echo "compose: $passed passed, $failed failed"
}

# free_port FROM
free_port() {
    local port=$1
    while (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do port=$((port + 1)); done
    echo "$port"
}

write_env() {
    local name
    admin_port=$(free_port 15672)
    api_port=$(free_port 8080)
    prometheus_port=$(free_port 9091)
    "$repo/deploy/make-env.sh" "$work/env"
    printf '%s=%s\n' POSTROAD_RABBITMQ_ADMIN_PORT "$admin_port" POSTROAD_API_PORT "$api_port" \
        POSTROAD_PROMETHEUS_PORT "$prometheus_port" \
        POSTROAD_DEMO_RECIPIENTS 20000 >> "$work/env"
    # Compose would let the caller's own values win over the file's.
    while IFS='=' read -r name _; do
        [[ $name != [A-Z]* ]] || unset "$name"
    done < "$work/env"
}

install_packages() {
    local missing=()
    command -v dockerd > /dev/null || missing+=(docker.io)
    command -v debootstrap > /dev/null || missing+=(debootstrap)
    command -v "${compose_command[0]}" > /dev/null || missing+=(docker-compose)
    command -v curl > /dev/null || missing+=(curl)
    ((${#missing[@]})) || return 0
    if [[ $(id -u) != 0 ]]; then
        die "run first: sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
    log "installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

use_own_engine() {
    install_packages
    # Two engines share the host's packet filter, and the other one's rules would decide.
    ! docker info > /dev/null 2>&1 || die "an engine runs here already: use it with --running, or stop it"
    start_engine
    "$compose_dir/build-images.sh"
    compose_files+=(-f "$compose_dir/docker-compose.test.yml")
    export COMPOSE_DOCKER_CLI_BUILD=0 DOCKER_BUILDKIT=0
}

use_running_engine() {
    docker info > /dev/null || die "no engine runs here"
}

# Before containers are removed: what they said, for whoever looks into a failure.
keep_logs() {
    [[ -n $(containers) ]] || return 0
    compose logs --no-color --timestamps >> "$cache/services.log" 2>&1 || true
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    # Written once there is an engine to talk to.
    if [[ -e $work/env ]]; then
        keep_logs
        compose down --volumes --remove-orphans > /dev/null 2>&1 || true
    fi
    stop_engine
    rm -rf "$work"
    exit "$status"
}

# === Checks ===

# A campaign of the profile demo, during which one of its workers is killed. What that one had in
# hand is held; nothing is lost, and nothing arrives twice.
demo_runs() {
    local campaign
    compose --profile demo up -d --scale worker=1 --scale demo-worker=4
    wait_for 90 "the campaign" is_sending
    docker kill "$(containers_of demo-worker | head -n 1)"
    campaign=$(containers_of campaign)
    wait_for 240 "the end of the campaign" has_ended "$campaign" || { states; return 1; }
    docker logs "$campaign"
    exit_codes_are_zero "$campaign"
}

is_sending() { [[ $(sql "select count(*) from postroad.jobs j where j.tenant like 'demo-%' and j.state in ('running', 'completed')") -gt 0 ]]; }
has_ended() { [[ $(docker inspect --format '{{.State.Status}}' "$1") == exited ]]; }

demo_is_gone() { compose --profile demo rm --stop --force -v campaign demo-worker provider; }

names_the_missing_password() {
    : > "$work/empty"
    if "${compose_command[@]}" --env-file "$work/empty" "${compose_files[@]}" config > "$work/config" 2>&1; then
        echo "it did without"
        return 1
    fi
    grep -F 'make .env' "$work/config"
}

has_no_password() { ! grep -E '_PASS(WORD)?' "$repo/docker-compose.yml" | grep -vF '_PASSWORD:?run'; }

everything_is_healthy() {
    wait_for 120 "postgres" has_healthy postgres 1
    wait_for 120 "rabbitmq" has_healthy rabbitmq 1
    wait_for 60 "the api" has_healthy api 1
    wait_for 60 "the scheduler" has_healthy scheduler 1
    wait_for 60 "$1 workers" has_healthy worker "$1"
}

migrate_ended_well() { exit_codes_are_zero "$(containers_of migrate)" "$(containers_of users)"; }

completed_are() { [[ $(completed) == "$1" ]]; }
all_completed() { wait_for 180 "$1 completed jobs" completed_are "$1" || { states; return 1; }; }

admin_pages_answer() {
    curl -fsS --max-time 10 -o /dev/null "http://127.0.0.1:$admin_port/"
    pages postroad RABBITMQ_PASSWORD whoami
    pages monitoring RABBITMQ_MONITORING_PASSWORD queues/postroad | grep -c '"name":"postroad.jobs.default"'
}

guest_is_refused() {
    [[ $(curl -sS --max-time 10 -u guest:guest -o /dev/null -w '%{http_code}' "http://127.0.0.1:$admin_port/api/whoami") == 401 ]]
}

only_loopback_is_bound() {
    local bound
    bound=$(containers | xargs docker inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}}:{{.HostPort}}{{"\n"}}{{end}}{{end}}' | grep . | sort)
    echo "$bound"
    [[ $bound == "$(printf '127.0.0.1:%s\n' "$admin_port" "$api_port" | sort)" ]]
}

programs_are_confined() {
    local id
    for id in $(containers_of migrate) $(containers_of users) $(containers_of api) $(containers_of scheduler) $(containers_of worker); do
        docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}' "$id"
    done | sort -u > "$work/confined"
    cat "$work/confined"
    diff "$work/confined" - <<< '65532:65532 true [ALL] [no-new-privileges:true]'
}

# Each program by the name that its connections carry, and the user they logged in as.
each_program_has_its_user() {
    sql "select distinct application_name, usename from pg_stat_activity where application_name ~ '^postroad-' order by 1" > "$work/users"
    pages postroad RABBITMQ_PASSWORD connections \
        | grep -oE '"connection_name":"postroad-[a-z]+|"user":"[a-z]+"' | cut -d '"' -f 4 | paste - - | sort -u > "$work/broker-users"
    cat "$work/users" "$work/broker-users"
    diff "$work/users" - <<< $'postroad-api|api\npostroad-scheduler|scheduler\npostroad-worker|worker'
    # The order of the two fields is the broker's business.
    [[ $(grep -c . "$work/broker-users") == 2 ]]
    grep -q 'postroad-scheduler' "$work/broker-users" && grep -qw 'worker' "$work/broker-users"
}

# Every line is something that the user must not be able to do.
users_may_no_more() {
    local user statement
    while IFS='|' read -r user statement; do
        if sql_as "$user" "$statement" > "$work/refused" 2>&1 || ! grep -E 'permission denied|must be owner' "$work/refused"; then
            echo "$user: $statement"
            cat "$work/refused"
            return 1
        fi
    done <<'STATEMENTS'
worker|select * from postroad.token
worker|select * from postroad.audit_log
worker|create table postroad.mine ()
worker|drop table postroad.job
scheduler|select * from postroad.token
scheduler|select * from postroad.tenant_secret
scheduler|create role mine
api|select * from postroad.tenant_secret
api|insert into postroad.tenant (name) values ('mine')
api|truncate postroad.job
readonly|delete from postroad.job
readonly|select * from postroad.token
STATEMENTS
    [[ $(sql_as api 'select count(*) from postroad.job') == 0 ]]
}

broker_users_may_no_more() {
    local user name
    for user in scheduler worker; do
        name=RABBITMQ_${user^^}_PASSWORD
        # The pages are for people.
        [[ $(curl -sS --max-time 10 -u "$user:$(secret "$name")" -o /dev/null -w '%{http_code}' "http://127.0.0.1:$admin_port/api/overview") == 401 ]]
    done
    pages postroad RABBITMQ_PASSWORD permissions
    ! pages monitoring RABBITMQ_MONITORING_PASSWORD queues/postroad/postroad.parked/contents -X DELETE
}

servers_change_no_file_of_their_image() {
    local id
    for id in $(containers_of postgres) $(containers_of rabbitmq); do
        docker inspect --format '{{.Name}} {{.HostConfig.ReadonlyRootfs}}' "$id"
    done > "$work/read-only"
    cat "$work/read-only"
    [[ $(grep -c ' true$' "$work/read-only") == 2 ]]
}

# Grafana is in no Debian: nothing here stands in for it.
prometheus_sees_every_program() {
    compose --profile observability up -d prometheus
    wait_for 120 "its targets" targets_are_up "$1" || { up_by_job; return 1; }
    prometheus rules | grep -o '"type":"alerting"' | sort | uniq -c
    compose --profile observability rm --stop --force -v prometheus
}

prometheus() { curl -fsS --max-time 10 --get "http://127.0.0.1:$prometheus_port/api/v1/$1" "${@:2}"; }
# A line for each job, with how many of its targets answer.
up_by_job() {
    prometheus query --data-urlencode 'query=sum by (job) (up)' \
        | grep -oE '"job":"[a-z-]+"\},"value":\[[0-9.]+,"[0-9]+"' | sed -E 's/"job":"([a-z-]+)".*"([0-9]+)"/\1 \2/' | sort
}
targets_are_up() {
    diff <(up_by_job) <(printf '%s\n' 'postroad-api 1' 'postroad-scheduler 1' "postroad-worker $1" 'rabbitmq 1' 'rabbitmq-queues 1')
}

kill_a_worker() { docker kill "$(containers_of worker | head -n 1)"; }

stop_drains() {
    compose stop api scheduler worker
    # shellcheck disable=SC2046 # one argument each
    exit_codes_are_zero $(containers_of api) $(containers_of scheduler) $(containers_of worker)
}

starts_again_with_its_data() {
    keep_logs
    compose down
    compose up -d --scale worker=4
    everything_is_healthy 4
    migrate_ended_well
    completed_are $((3 * jobs + 2))
}

leaves_nothing() {
    keep_logs
    compose down --volumes
    [[ -z $(containers) ]]
    [[ -z $(docker volume ls -q --filter "label=com.docker.compose.project=$project") ]]
    [[ -z $(docker network ls -q --filter "label=com.docker.compose.project=$project") ]]
}

main() {
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    case ${1:-} in
        '') use_own_engine ;;
        --running) use_running_engine ;;
        *) die "unknown argument: $1" ;;
    esac

    mkdir -p "$cache"
    : > "$cache/services.log"
    write_env
    check "without passwords it says which command makes them" names_the_missing_password
    check "no password stands in the file" has_no_password
    need "the file is valid" compose config --quiet
    need "the image builds" compose build
    need "and that of the demo" compose --profile demo build provider
    need "everything starts, with 4 workers" compose up -d --scale worker=4
    need "everything is healthy" everything_is_healthy 4
    check "migrate ended with 0" migrate_ended_well
    check "our programs are not root, change no file and have no capability" programs_are_confined
    check "servers change no file of their image" servers_change_no_file_of_their_image
    check "ports are bound on 127.0.0.1 only" only_loopback_is_bound
    check "the admin pages answer" admin_pages_answer
    check "guest may not log in" guest_is_refused
    check "each program has a user of its own" each_program_has_its_user
    check "which may do no more in the database" users_may_no_more
    check "and no more in the broker" broker_users_may_no_more

    check "$jobs jobs are sent" send_jobs "$jobs"
    check "all are completed" all_completed "$jobs"
    check "$jobs jobs are sent by SQL" send_jobs_by_sql "$jobs"
    check "it scales to 8 workers" compose up -d --scale worker=8
    check "everything is healthy" everything_is_healthy 8
    check "Prometheus reads every program, and has the alerts" prometheus_sees_every_program 8
    check "a worker is killed" kill_a_worker
    check "a token is made" make_token
    check "a job is sent over HTTP with it" send_a_job_over_http
    check "it is completed" the_job_completes
    check "$jobs more jobs are sent" send_jobs "$jobs"
    check "all are completed" all_completed $((3 * jobs + 1))
    check "a new queue needs no administrator" a_new_queue_works $((3 * jobs + 2))
    check "up brings the killed worker back" compose up -d --scale worker=8
    check "everything is healthy" everything_is_healthy 8

    check "the demo's campaign loses nothing, with a worker killed" demo_runs
    check "its containers are removed" demo_is_gone
    check "api, scheduler and workers drain and end with 0 when stopped" stop_drains
    check "after down and up its data is still there" starts_again_with_its_data
    check "down -v leaves nothing" leaves_nothing

    summary
    ((failed == 0))
}

main "$@"
