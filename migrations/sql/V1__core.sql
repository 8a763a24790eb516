-- The core: one live table that holds only unfinished jobs, and beside it what must not make
-- that table slow: names, dedup keys, finished jobs, errors, processes.
--
-- The live table is shaped by three measurements (docs/adr/0001-live-table.md):
--   * the claim is an index range per tenant and priority, however many jobs lie in the future;
--   * the start gate changes no indexed column, so it is a HOT update;
--   * a random unique index on the live table would cost every update, so dedup keys live aside.
-- For the same reason it has no foreign keys: they lock parent rows on every insert.

create type postroad.job_state as enum (
    'scheduled', 'dispatched', 'running', 'failed', 'held',
    'completed', 'dead', 'cancelled', 'expired'
);
comment on type postroad.job_state is
    'The nine states of a job. The last four are final and only occur in the archive.';

-- === Names ===

create function postroad.is_name(name text) returns boolean
    language sql immutable parallel safe
    return name ~ '^[a-z0-9][a-z0-9._-]{0,62}$';
comment on function postroad.is_name is
    'Names of queues, kinds and tenants: 1 to 63 of a-z 0-9 . _ - and no leading punctuation.';

create table postroad.queue (
    id          integer generated always as identity primary key,
    name        text not null unique
                constraint queue_name_is_a_name check (postroad.is_name(name)),
    paused_at   timestamptz,
    window_size integer not null default 2000
                constraint queue_window_size_in_range check (window_size between 1 and 100000),
    pipe_ttl    interval not null default '60 seconds'
                constraint queue_pipe_ttl_in_range
                check (pipe_ttl between interval '1 second' and interval '1 day'),
    created_at  timestamptz not null default now()
);
comment on table postroad.queue is 'A named lane of work with its own window. One RabbitMQ queue each.';
comment on column postroad.queue.paused_at is 'Not null: nothing is dispatched.';
comment on column postroad.queue.window_size is
    'How many jobs may be between the claim and the finish line at once.';
comment on column postroad.queue.pipe_ttl is
    'How long a message may wait in RabbitMQ before its job goes back to scheduled.';

create table postroad.kind (
    id            integer generated always as identity primary key,
    name          text not null unique
                  constraint kind_name_is_a_name check (postroad.is_name(name)),
    on_lost       text not null default 'retry'
                  constraint kind_on_lost_is_known check (on_lost in ('retry', 'hold')),
    max_attempts  integer not null default 20
                  constraint kind_max_attempts_in_range check (max_attempts between 1 and 1000),
    backoff_base  interval not null default '5 seconds',
    backoff_cap   interval not null default '6 hours',
    registered_at timestamptz
);
comment on table postroad.kind is
    'The policy of each job kind. Workers write their own at every start; a kind that no worker '
    'has registered yet has the defaults.';
comment on column postroad.kind.on_lost is
    'What becomes of a job whose worker was lost while it ran: retry it, or hold it for a decision.';

-- The built-in kinds, so that their policies are right before the first worker starts.
insert into postroad.kind (name, on_lost) values ('echo', 'retry'), ('webhook', 'retry'), ('sms', 'hold');

create table postroad.tenant (
    id         integer generated always as identity primary key,
    name       text not null unique
               constraint tenant_name_is_a_name check (postroad.is_name(name)),
    created_at timestamptz not null default now()
);
comment on table postroad.tenant is 'Whose jobs they are. Tenants share queues and are served in turn.';

-- Whoever names a new queue, kind or tenant makes others who name it wait for the end of the
-- transaction. The names that nearly everybody uses are there from the start.
insert into postroad.queue (name) values ('default');
insert into postroad.tenant (name) values ('default');

-- === Processes ===

create table postroad.process (
    id         bigint generated always as identity primary key,
    role       text not null constraint process_role_is_known check (role in ('scheduler', 'worker')),
    host       text not null,
    pid        integer not null,
    version    text not null,
    queues     text[] not null default '{}',
    lease      interval not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now(),
    stopped_at timestamptz,
    lost_at    timestamptz
) with (fillfactor = 50);
comment on table postroad.process is
    'Schedulers and workers, one row per start. The heartbeat is the lease of everything the process holds.';
comment on column postroad.process.lease is
    'How long the process may be silent before a watcher, having watched it that long, calls it lost.';
comment on column postroad.process.lost_at is
    'Set by a watcher. From then on the process may start nothing under this id.';

-- === Jobs ===

create table postroad.job (
    id           uuid        not null primary key,
    -- What changes comes first and args come last, so that an update logs little.
    dispatch     bigint      not null default 0,
    claimed_at   timestamptz,
    started_at   timestamptz,
    ended_at     timestamptz,
    claimed_by   bigint,
    worker_id    bigint,
    attempt      integer     not null default 0,
    retry_after  interval,
    stage        smallint    not null default 0,
    fatal        boolean     not null default false,
    priority     smallint    not null default 1
                 constraint job_priority_in_range check (priority between 0 and 3),
    queue_id     integer     not null,
    kind_id      integer     not null,
    tenant_id    integer     not null,
    max_attempts integer
                 constraint job_max_attempts_in_range check (max_attempts between 1 and 1000),
    run_at       timestamptz not null default now()
                 constraint job_run_at_in_range
                 check (run_at >= '2000-01-01 00:00+00' and run_at < '2200-01-01 00:00+00'),
    expires_at   timestamptz
                 constraint job_expires_at_in_range
                 check (expires_at >= '2000-01-01 00:00+00' and expires_at < '2200-01-01 00:00+00'),
    created_at   timestamptz not null default now(),
    on_lost      text
                 constraint job_on_lost_is_known check (on_lost in ('retry', 'hold')),
    traceparent  text
                 constraint job_traceparent_is_short check (octet_length(traceparent) <= 255),
    args         json        not null
                 constraint job_args_at_most_256_kib check (octet_length(args::text) <= 262144),
    constraint job_stage_matches_its_columns check (
        case stage
            when 0 then claimed_at is null and claimed_by is null and started_at is null
                        and worker_id is null and ended_at is null
            when 1 then claimed_at is not null and dispatch > 0 and ended_at is null
                        and (started_at is null) = (worker_id is null)
            when 2 then claimed_at is not null and started_at is not null and ended_at is not null
            when 3 then claimed_at is not null and started_at is not null and ended_at is not null
            else false
        end
    ),
    constraint job_fatal_means_failed check (not fatal or stage = 2),
    constraint job_retry_after_means_failed check (retry_after is null or stage = 2)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);

comment on table postroad.job is 'Jobs that are not finished. Read the view postroad.jobs instead.';
comment on column postroad.job.id is 'UUIDv7 from the producer: the message id in RabbitMQ and the dedup id for providers.';
comment on column postroad.job.dispatch is 'The fence: +1 at each claim. Every later write names it.';
comment on column postroad.job.claimed_at is 'When the dispatcher committed the job to the pipe.';
comment on column postroad.job.started_at is 'When the start gate let the current attempt run. Set = running.';
comment on column postroad.job.ended_at is 'When the attempt ended in an error, or became unclear.';
comment on column postroad.job.claimed_by is 'The scheduler process that claimed it.';
comment on column postroad.job.worker_id is 'The worker process that runs it.';
comment on column postroad.job.attempt is 'Attempts so far, the running one included.';
comment on column postroad.job.retry_after is 'How long the other side asked us to wait.';
comment on column postroad.job.stage is '0 scheduled, 1 in the pipe (running once started_at is set), 2 failed, 3 held.';
comment on column postroad.job.fatal is 'The failed attempt said that no further one can help.';
comment on column postroad.job.priority is '0 first to 3 last, strict within a tenant.';
comment on column postroad.job.max_attempts is 'Overrides the kind''s.';
comment on column postroad.job.on_lost is 'Overrides the kind''s.';
comment on column postroad.job.expires_at is 'From then on the job is pointless and is not started.';
comment on column postroad.job.traceparent is 'W3C trace context of whoever enqueued it.';
comment on column postroad.job.args is 'The input, kept byte for byte.';

create index job_due on postroad.job (queue_id, tenant_id, priority, run_at) where stage = 0;
create index job_in_pipe on postroad.job (queue_id, claimed_at) where stage = 1;
create index job_failed on postroad.job (ended_at) where stage = 2;
create index job_held on postroad.job (ended_at) where stage = 3;
create index job_expiry on postroad.job (expires_at) where stage = 0 and expires_at is not null;

create function postroad.live_state(stage smallint, started_at timestamptz) returns postroad.job_state
    language sql immutable parallel safe
    return (case stage
        when 0 then 'scheduled'
        when 1 then case when started_at is null then 'dispatched' else 'running' end
        when 2 then 'failed'
        when 3 then 'held'
    end)::postroad.job_state;

create table postroad.dedup (
    tenant_id  integer     not null,
    kind_id    integer     not null,
    key        text        not null
               constraint dedup_key_length_in_range check (octet_length(key) between 1 and 255),
    job_id     uuid        not null,
    expires_at timestamptz not null,
    primary key (tenant_id, kind_id, key)
);
create index dedup_expiry on postroad.dedup (expires_at);
comment on table postroad.dedup is
    'The caller''s dedup keys. A key holds until expires_at, and as long as its job is unfinished.';

-- === Archive, partitioned by day, pruned by dropping partitions ===

create table postroad.archive (
    id          uuid        not null,
    state       postroad.job_state not null
                constraint archive_state_is_final
                check (state in ('completed', 'dead', 'cancelled', 'expired')),
    priority    smallint    not null,
    attempt     integer     not null,
    dispatch    bigint      not null,
    queue_id    integer     not null,
    kind_id     integer     not null,
    tenant_id   integer     not null,
    worker_id   bigint,
    run_at      timestamptz not null,
    created_at  timestamptz not null,
    started_at  timestamptz,
    finished_at timestamptz not null default now(),
    expires_at  timestamptz,
    max_attempts integer,
    on_lost     text,
    traceparent text,
    reason      text,
    result      text,
    args        json,
    constraint archive_args_kept_unless_completed check ((state = 'completed') = (args is null))
) partition by range (finished_at);
create index archive_id on postroad.archive (id);
comment on table postroad.archive is 'Finished jobs. A completed job keeps its result; a dead one keeps its args, to be redriven.';

create table postroad.attempt_error (
    job_id    uuid        not null,
    attempt   integer     not null,
    at        timestamptz not null default now(),
    worker_id bigint,
    code      text        not null,
    message   text        not null
) partition by range (at);
create index attempt_error_job on postroad.attempt_error (job_id);
comment on table postroad.attempt_error is 'Every attempt that did not work, with what it said.';

create function postroad.make_partitions(days_ahead integer) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    parent text;
    day date;
    child text;
    made integer := 0;
begin
    -- Two pruners at once would both find the partition missing.
    perform pg_advisory_xact_lock(hashtextextended('postroad.make_partitions', 0));
    foreach parent in array array['archive', 'attempt_error'] loop
        for day in select (now() at time zone 'UTC')::date + n from generate_series(-1, days_ahead) n loop
            child := parent || '_' || to_char(day, 'YYYYMMDD');
            if to_regclass('postroad.' || child) is null then
                -- Attaching, unlike `partition of`, does not stop writers to the other partitions.
                execute format('create table postroad.%I (like postroad.%I including all)', child, parent);
                execute format('alter table postroad.%I attach partition postroad.%I for values from (%L) to (%L)',
                    parent, child, day || ' 00:00+00', (day + 1) || ' 00:00+00');
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;
comment on function postroad.make_partitions is 'Creates the missing partitions from yesterday to days_ahead. Safe to call at any time.';

create function postroad.partitions() returns table (parent text, child text, day date)
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select p.relname::text, c.relname::text, to_date(right(c.relname, 8), 'YYYYMMDD')
    from pg_inherits i
    join pg_class p on p.oid = i.inhparent
    join pg_class c on c.oid = i.inhrelid
    join pg_namespace n on n.oid = p.relnamespace
    where n.nspname = 'postroad' and p.relname in ('archive', 'attempt_error')
$$;

create function postroad.drop_partitions(keep interval) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    old record;
    dropped integer := 0;
begin
    for old in
        select child from postroad.partitions()
        where (day + 1) at time zone 'UTC' <= now() - keep
    loop
        execute format('drop table if exists postroad.%I', old.child);
        dropped := dropped + 1;
    end loop;
    return dropped;
end $$;
comment on function postroad.drop_partitions is 'Drops the partitions that lie wholly before now - keep.';

select postroad.make_partitions(7);

-- === Ways in ===

create function postroad.uuid_v7() returns uuid
    language sql volatile parallel safe set search_path = pg_catalog, pg_temp as $$
    -- RFC 9562: 48 bits of Unix milliseconds, then the version, then random bits.
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1), 'hex')::uuid
$$;

create function postroad.queue_id(queue_name text) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare found_id integer;
begin
    -- Looked up first: an insert that conflicts would burn an id and a row version every time.
    select id into found_id from postroad.queue where name = queue_name;
    if found_id is null then
        insert into postroad.queue (name) values (queue_name) on conflict (name) do nothing;
        select id into found_id from postroad.queue where name = queue_name;
    end if;
    return found_id;
end $$;

create function postroad.kind_id(kind_name text) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare found_id integer;
begin
    select id into found_id from postroad.kind where name = kind_name;
    if found_id is null then
        insert into postroad.kind (name) values (kind_name) on conflict (name) do nothing;
        select id into found_id from postroad.kind where name = kind_name;
    end if;
    return found_id;
end $$;

create function postroad.tenant_id(tenant_name text) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare found_id integer;
begin
    select id into found_id from postroad.tenant where name = tenant_name;
    if found_id is null then
        insert into postroad.tenant (name) values (tenant_name) on conflict (name) do nothing;
        select id into found_id from postroad.tenant where name = tenant_name;
    end if;
    return found_id;
end $$;

create function postroad.refuse(field text, rule text, given text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'postroad.enqueue: % %', field, rule
        using errcode = 'invalid_parameter_value',
              detail = format('%s was %s', field, coalesce(quote_literal(left(given, 100)), 'null'));
end $$;

create function postroad.enqueue(
    kind         text,
    args         text        default '{}',
    queue        text        default 'default',
    run_at       timestamptz default null,
    priority     integer     default 1,
    expires_at   timestamptz default null,
    dedup_key    text        default null,
    tenant       text        default 'default',
    max_attempts integer     default null,
    on_lost      text        default null,
    dedup_for    interval    default '24 hours',
    traceparent  text        default null
) returns uuid
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    name_rule constant text := 'must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit';
    first_at constant timestamptz := '2000-01-01 00:00+00';
    last_at constant timestamptz := '2200-01-01 00:00+00';
    due timestamptz := coalesce(enqueue.run_at, now());
    new_id constant uuid := postroad.uuid_v7();
    tenant_ref integer;
    kind_ref integer;
    first_id uuid;
begin
    -- The table refuses all of this too; here the text can name the field in the caller's words.
    if postroad.is_name(enqueue.kind) is not true then
        perform postroad.refuse('kind', name_rule, enqueue.kind);
    end if;
    if postroad.is_name(enqueue.queue) is not true then
        perform postroad.refuse('queue', name_rule, enqueue.queue);
    end if;
    if postroad.is_name(enqueue.tenant) is not true then
        perform postroad.refuse('tenant', name_rule, enqueue.tenant);
    end if;
    if enqueue.args is null then
        perform postroad.refuse('args', 'must be JSON, not null', null);
    end if;
    if octet_length(enqueue.args) > 262144 then
        perform postroad.refuse('args', 'must be at most 256 KiB', octet_length(enqueue.args) || ' bytes');
    end if;
    begin
        perform enqueue.args::json;
    exception when invalid_text_representation or untranslatable_character or statement_too_complex then
        perform postroad.refuse('args', 'must be valid JSON: ' || sqlerrm, enqueue.args);
    end;
    if (enqueue.priority between 0 and 3) is not true then
        perform postroad.refuse('priority', 'must be from 0 (first) to 3 (last)', enqueue.priority::text);
    end if;
    if not (due >= first_at and due < last_at) then
        perform postroad.refuse('run_at', 'must lie between the years 2000 and 2200', due::text);
    end if;
    if not (enqueue.expires_at > due and enqueue.expires_at < last_at) then
        perform postroad.refuse('expires_at', 'must be later than run_at and before the year 2200', enqueue.expires_at::text);
    end if;
    if not (enqueue.max_attempts between 1 and 1000) then
        perform postroad.refuse('max_attempts', 'must be from 1 to 1000', enqueue.max_attempts::text);
    end if;
    if not (enqueue.on_lost in ('retry', 'hold')) then
        perform postroad.refuse('on_lost', 'must be retry or hold', enqueue.on_lost);
    end if;
    if not (octet_length(enqueue.dedup_key) between 1 and 255) then
        perform postroad.refuse('dedup_key', 'must be 1 to 255 bytes', enqueue.dedup_key);
    end if;
    if (enqueue.dedup_for between interval '0' and interval '366 days') is not true then
        perform postroad.refuse('dedup_for', 'must be from 0 to 366 days', enqueue.dedup_for::text);
    end if;
    if octet_length(enqueue.traceparent) > 255 then
        perform postroad.refuse('traceparent', 'must be at most 255 bytes', enqueue.traceparent);
    end if;

    tenant_ref := postroad.tenant_id(enqueue.tenant);
    kind_ref := postroad.kind_id(enqueue.kind);

    while enqueue.dedup_key is not null loop
        -- The unique index decides, not a look before the insert: of two callers at once the
        -- second waits here and then finds the first one's job.
        insert into postroad.dedup (tenant_id, kind_id, key, job_id, expires_at)
        values (tenant_ref, kind_ref, enqueue.dedup_key, new_id, greatest(due, now()) + enqueue.dedup_for)
        on conflict (tenant_id, kind_id, key) do nothing
        returning dedup.job_id into first_id;
        exit when first_id is not null;
        -- Lock first, look after, in a statement of its own: a statement that waits for the lock
        -- does not see the job which the caller before it added, and would take over its key.
        perform from postroad.dedup d
        where d.tenant_id = tenant_ref and d.kind_id = kind_ref and d.key = enqueue.dedup_key
        for no key update;
        update postroad.dedup d
        set job_id = new_id, expires_at = greatest(due, now()) + enqueue.dedup_for
        where d.tenant_id = tenant_ref and d.kind_id = kind_ref and d.key = enqueue.dedup_key
          and d.expires_at < now() and not exists (select from postroad.job j where j.id = d.job_id)
        returning d.job_id into first_id;
        exit when first_id is not null;
        select d.job_id into first_id from postroad.dedup d
        where d.tenant_id = tenant_ref and d.kind_id = kind_ref and d.key = enqueue.dedup_key;
        if first_id is not null then
            return first_id;
        end if;
        -- The key was pruned between two statements: try again.
    end loop;

    insert into postroad.job
        (id, queue_id, kind_id, tenant_id, args, priority, run_at, expires_at, max_attempts, on_lost, traceparent)
    values (new_id, postroad.queue_id(enqueue.queue), kind_ref, tenant_ref, enqueue.args::json,
        enqueue.priority, due, enqueue.expires_at, enqueue.max_attempts, enqueue.on_lost, enqueue.traceparent);
    return new_id;
end $$;
comment on function postroad.enqueue(text, text, text, timestamptz, integer, timestamptz, text, text, integer, text, interval, text) is
    'Enqueues one job in the caller''s transaction and returns its id; with a dedup_key seen before, the first job''s id.';

-- The same for callers that hold json or jsonb. An untyped literal goes to the text version.
create function postroad.enqueue(
    kind text, args json, queue text default 'default', run_at timestamptz default null,
    priority integer default 1, expires_at timestamptz default null, dedup_key text default null,
    tenant text default 'default', max_attempts integer default null, on_lost text default null,
    dedup_for interval default '24 hours', traceparent text default null
) returns uuid language sql as $$
    select postroad.enqueue(kind, args::text, queue, run_at, priority, expires_at, dedup_key, tenant,
        max_attempts, on_lost, dedup_for, traceparent)
$$;
create function postroad.enqueue(
    kind text, args jsonb, queue text default 'default', run_at timestamptz default null,
    priority integer default 1, expires_at timestamptz default null, dedup_key text default null,
    tenant text default 'default', max_attempts integer default null, on_lost text default null,
    dedup_for interval default '24 hours', traceparent text default null
) returns uuid language sql as $$
    select postroad.enqueue(kind, args::text, queue, run_at, priority, expires_at, dedup_key, tenant,
        max_attempts, on_lost, dedup_for, traceparent)
$$;

-- === For people ===

create view postroad.jobs as
select j.id, t.name as tenant, q.name as queue, k.name as kind,
       postroad.live_state(j.stage, j.started_at) as state,
       j.priority, j.attempt, coalesce(j.max_attempts, k.max_attempts) as max_attempts,
       coalesce(j.on_lost, k.on_lost) as on_lost,
       j.run_at, j.expires_at, j.created_at, j.started_at, j.ended_at, null::timestamptz as finished_at,
       j.dispatch, j.worker_id, null::text as reason, null::text as result, j.args
from postroad.job j
join postroad.tenant t on t.id = j.tenant_id
join postroad.queue q on q.id = j.queue_id
join postroad.kind k on k.id = j.kind_id
union all
select a.id, t.name, q.name, k.name, a.state,
       a.priority, a.attempt, coalesce(a.max_attempts, k.max_attempts),
       coalesce(a.on_lost, k.on_lost),
       a.run_at, a.expires_at, a.created_at, a.started_at, a.finished_at, a.finished_at,
       a.dispatch, a.worker_id, a.reason, a.result, a.args
from postroad.archive a
join postroad.tenant t on t.id = a.tenant_id
join postroad.queue q on q.id = a.queue_id
join postroad.kind k on k.id = a.kind_id;
comment on view postroad.jobs is 'Every job that is not pruned yet, live and finished, with names and states in words.';
