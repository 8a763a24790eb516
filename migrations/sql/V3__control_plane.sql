-- The control plane: tenants with settings, tokens, what people do to jobs and queues, recurring
-- schedules, operations on many jobs, and an audit log that only grows.
--
-- Adds columns and tables; the programs of the version before go on working beside it.

-- === Tenants ===

alter table postroad.tenant
    add column weight          integer not null default 1
               constraint tenant_weight_in_range check (weight between 1 and 1000),
    add column unfinished_max  bigint
               constraint tenant_unfinished_max_in_range check (unfinished_max between 0 and 1000000000),
    add column submit_rate     integer
               constraint tenant_submit_rate_in_range check (submit_rate between 1 and 1000000),
    add column disabled_at     timestamptz;
comment on column postroad.tenant.weight is
    'Its share of a queue''s window while others have due jobs, too, against their weights.';
comment on column postroad.tenant.unfinished_max is
    'How many jobs of it may be unfinished before the API refuses more. Null: no quota.';
comment on column postroad.tenant.submit_rate is
    'How many jobs a second each API process takes from it. Null: no limit.';
comment on column postroad.tenant.disabled_at is 'Not null: its tokens are refused. Its jobs go on.';

create table postroad.tenant_secret (
    tenant_id       integer not null primary key references postroad.tenant (id) on delete cascade,
    webhook_secret  text not null
                    constraint tenant_secret_is_one check (webhook_secret like 'whsec\_%'),
    previous_secret text
                    constraint tenant_secret_previous_is_one check (previous_secret like 'whsec\_%'),
    previous_until  timestamptz,
    updated_at      timestamptz not null default now(),
    constraint tenant_secret_previous_ends check ((previous_secret is null) = (previous_until is null))
);
comment on table postroad.tenant_secret is
    'What signs a tenant''s webhooks; apart from the tenant, so that only workers need to read it.';
comment on column postroad.tenant_secret.previous_until is
    'Until then webhooks carry a second signature by the secret before, so that receivers can change theirs.';

-- === Queues and kinds ===

alter table postroad.queue
    add column prefetch        integer
               constraint queue_prefetch_in_range check (prefetch between 1 and 65535),
    add column rate_per_second integer
               constraint queue_rate_in_range check (rate_per_second between 1 and 1000000),
    add column rate_tokens     double precision not null default 0,
    add column rate_at         timestamptz not null default now();
comment on column postroad.queue.prefetch is
    'How many jobs of it a worker runs at once, instead of the worker''s own POSTROAD_PREFETCH.';
comment on column postroad.queue.rate_per_second is
    'How many of its jobs may enter the pipe in a second, over all schedulers. Null: no limit.';
comment on column postroad.queue.rate_tokens is
    'The token bucket of rate_per_second as it was at rate_at: it holds one second''s worth at most.';

alter table postroad.kind add column overridden_at timestamptz;
comment on column postroad.kind.overridden_at is
    'Not null: an operator has set this policy, and workers leave it alone.';

-- === Jobs ===

alter table postroad.job add column cancel_at timestamptz;
comment on column postroad.job.cancel_at is
    'Somebody asked for a running job to be cancelled: its worker learns it with its next heartbeat.';
-- Neither the gate nor the claim changes a column of these: their updates stay on their page.
create index job_cancel on postroad.job (id) where cancel_at is not null;
create index job_of_tenant on postroad.job (tenant_id, id);

create index archive_of_tenant on postroad.archive (tenant_id, id);
-- What people look for, among millions that went well.
create index archive_not_well on postroad.archive (tenant_id, id) where state <> 'completed';

alter table postroad.dedup add column digest bytea
    constraint dedup_digest_is_sha256 check (octet_length(digest) = 32);
comment on column postroad.dedup.digest is
    'SHA-256 of what was asked for under this key. Null: it was asked for by SQL, and anything is the same.';

-- === Tokens ===

create table postroad.token (
    id           text not null primary key
                 constraint token_id_is_one check (id ~ '^[0-9A-Za-z]{8}$'),
    secret_hash  bytea not null
                 constraint token_secret_hash_is_sha256 check (octet_length(secret_hash) = 32),
    tenant_id    integer references postroad.tenant (id),
    name         text not null
                 constraint token_name_length_in_range check (octet_length(name) between 1 and 100),
    scopes       text[] not null
                 constraint token_scopes_not_empty check (cardinality(scopes) between 1 and 20),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
comment on table postroad.token is 'Who may use the API. The secret itself is shown once and kept nowhere.';
comment on column postroad.token.tenant_id is 'Null: an operator''s token, for all tenants.';

-- The one way for the API to a token: by its id, which is in the token itself.
create function postroad.find_token(token_id text)
    returns table (secret_hash bytea, tenant_id integer, tenant text, scopes text[], is_good boolean,
                   submit_rate integer, unfinished_max bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select k.secret_hash, k.tenant_id, t.name, k.scopes,
           k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
               and (k.tenant_id is null or t.disabled_at is null),
           t.submit_rate, t.unfinished_max
    from postroad.token k left join postroad.tenant t on t.id = k.tenant_id
    where k.id = token_id
$$;

create function postroad.touch_tokens(token_ids text[]) returns void
    language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    update postroad.token set last_used_at = now() where id = any(token_ids)
$$;
comment on function postroad.touch_tokens is 'Says that these tokens are in use; called about once a minute.';

-- An id is one job's for ever, whoever asks: also of a job that the asker may not see.
create function postroad.is_archived(job_id uuid) returns boolean
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select exists (select from postroad.archive a where a.id = job_id)
$$;

-- === Names ===

create function postroad.ensure_names(queues text[], kinds text[], tenants text[], most integer default null)
    returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- A program that anybody may reach must not be able to make queues without end.
    if most is not null then
        if (select count(*) from postroad.queue) >= most and exists (
            select from unnest(queues) n where not exists (select from postroad.queue q where q.name = n)) then
            raise exception 'queue is not known, and there are % already', most
                using errcode = 'program_limit_exceeded';
        end if;
        if (select count(*) from postroad.kind) >= most and exists (
            select from unnest(kinds) n where not exists (select from postroad.kind k where k.name = n)) then
            raise exception 'kind is not known, and there are % already', most
                using errcode = 'program_limit_exceeded';
        end if;
    end if;
    insert into postroad.queue (name)
    select distinct n from unnest(queues) n
    where not exists (select from postroad.queue q where q.name = n) order by n
    on conflict (name) do nothing;
    insert into postroad.kind (name)
    select distinct n from unnest(kinds) n
    where not exists (select from postroad.kind k where k.name = n) order by n
    on conflict (name) do nothing;
    insert into postroad.tenant (name)
    select distinct n from unnest(tenants) n
    where not exists (select from postroad.tenant t where t.name = n) order by n
    on conflict (name) do nothing;
end $$;
comment on function postroad.ensure_names is
    'Adds the names that are new. With most, queues and kinds beyond that number are refused.';

-- === Recurring schedules ===

create table postroad.schedule (
    id           bigint generated always as identity primary key,
    tenant_id    integer not null references postroad.tenant (id),
    name         text not null
                 constraint schedule_name_is_a_name check (postroad.is_name(name)),
    cron         text not null
                 constraint schedule_cron_length_in_range check (octet_length(cron) between 1 and 200),
    timezone     text not null
                 constraint schedule_timezone_length_in_range check (octet_length(timezone) between 1 and 100),
    misfire      text not null default 'run_once'
                 constraint schedule_misfire_is_known check (misfire in ('skip', 'run_once', 'catch_up')),
    catch_up_max integer not null default 100
                 constraint schedule_catch_up_max_in_range check (catch_up_max between 1 and 10000),
    queue_id     integer not null references postroad.queue (id),
    kind_id      integer not null references postroad.kind (id),
    args         json not null
                 constraint schedule_args_at_most_256_kib check (octet_length(args::text) <= 262144),
    priority     smallint not null default 1
                 constraint schedule_priority_in_range check (priority between 0 and 3),
    max_attempts integer
                 constraint schedule_max_attempts_in_range check (max_attempts between 1 and 1000),
    on_lost      text
                 constraint schedule_on_lost_is_known check (on_lost in ('retry', 'hold')),
    expires_after interval
                 constraint schedule_expires_after_in_range
                 check (expires_after between interval '1 second' and interval '366 days'),
    paused_at    timestamptz,
    next_at      timestamptz,
    last_at      timestamptz,
    version      integer not null default 1,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    constraint schedule_name_is_free unique (tenant_id, name)
);
create index schedule_due on postroad.schedule (next_at) where paused_at is null and next_at is not null;
comment on table postroad.schedule is 'A job for each tick of a cron expression in a time zone.';
comment on column postroad.schedule.next_at is 'The next tick that has no job yet. Null: the expression has none any more.';
comment on column postroad.schedule.version is 'Raised by every change of the schedule, so that a tick computed by the one before is not made.';

create table postroad.schedule_tick (
    schedule_id bigint not null references postroad.schedule (id) on delete cascade,
    tick_at     timestamptz not null,
    tenant_id   integer not null,
    job_id      uuid,
    made_at     timestamptz not null default now(),
    primary key (schedule_id, tick_at)
);
create index schedule_tick_made on postroad.schedule_tick (made_at);
comment on table postroad.schedule_tick is
    'One row per tick, whatever number of schedulers saw it: the job is inserted in the same transaction. '
    'Without a job: the misfire policy passed over it.';

-- === Operations on many jobs ===

create table postroad.operation (
    id          uuid not null primary key,
    tenant_id   integer,
    action      text not null constraint operation_action_is_known check (action in ('redrive')),
    filter      jsonb not null,
    -- What is known when it begins: dead letters that come later are not its own.
    until       timestamptz not null default now(),
    cursor      uuid,
    planned     bigint not null,
    done        bigint not null default 0,
    limit_to    bigint,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    stopped_at  timestamptz,
    finished_at timestamptz,
    actor       text not null
);
create index operation_open on postroad.operation (created_at) where finished_at is null;
comment on table postroad.operation is 'What was asked for many jobs at once, and how far schedulers are with it.';

-- === What people did ===

create table postroad.audit_log (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    actor      text not null,
    tenant_id  integer,
    action     text not null,
    target     text not null,
    request_id text,
    detail     jsonb not null default '{}'
);
create index audit_log_at on postroad.audit_log (at);
comment on table postroad.audit_log is 'Everything that people changed, by whom. Only grows.';

create function postroad.keep_audit_log() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'postroad.audit_log only grows' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_log_only_grows before update or delete or truncate on postroad.audit_log
    for each statement execute function postroad.keep_audit_log();

-- === Who is told of a change ===

create function postroad.tell_settings() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('postroad_settings', tg_table_name);
    return null;
end $$;
comment on function postroad.tell_settings is 'Every process that keeps settings in memory reads them again.';

create trigger tenant_is_told after update or delete on postroad.tenant
    for each statement execute function postroad.tell_settings();
create trigger tenant_secret_is_told after insert or update or delete on postroad.tenant_secret
    for each statement execute function postroad.tell_settings();
-- Not of the token bucket, which changes with every claim.
create trigger queue_is_told after update of paused_at, window_size, pipe_ttl, prefetch, rate_per_second on postroad.queue
    for each statement execute function postroad.tell_settings();
create trigger token_is_told after update of revoked_at, scopes, expires_at on postroad.token
    for each statement execute function postroad.tell_settings();

-- === Rows of other tenants ===
--
-- Behind the queries' own conditions: a session of the API sees the rows of the tenant that its
-- transaction has named, and without a name none. The owner of the tables is not bound by this,
-- and the policies of each role are made by `postroad migrate --roles`.

create function postroad.visible_tenant() returns integer
    language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when s ~ '^[0-9]{1,9}$' then s::integer else -1 end
    from (select coalesce(current_setting('postroad.tenant', true), '') as s) setting
$$;
comment on function postroad.visible_tenant is 'The tenant that this transaction has named; -1: none.';

create function postroad.sees_all_tenants() returns boolean
    language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
    select coalesce(current_setting('postroad.tenant', true), '') = '*'
$$;

alter table postroad.job enable row level security;
alter table postroad.archive enable row level security;
alter table postroad.dedup enable row level security;
alter table postroad.attempt_error enable row level security;
alter table postroad.tenant enable row level security;
alter table postroad.schedule enable row level security;
alter table postroad.schedule_tick enable row level security;
alter table postroad.operation enable row level security;
alter table postroad.audit_log enable row level security;
alter table postroad.ledger_entry enable row level security;
alter table postroad.ledger_total enable row level security;

-- A view reads with the rights of whoever asks it.
alter view postroad.jobs set (security_invoker = true);
alter view postroad.ledger set (security_invoker = true);

-- Partitions belong to the owner, whoever makes them.
alter function postroad.make_partitions(integer) security definer;
alter function postroad.drop_partitions(interval) security definer;
revoke all on function postroad.make_partitions(integer), postroad.drop_partitions(interval),
    postroad.find_token(text), postroad.touch_tokens(text[]), postroad.is_archived(uuid),
    postroad.ensure_names(text[], text[], text[], integer) from public;

alter table postroad.process drop constraint process_role_is_known;
alter table postroad.process add constraint process_role_is_known check (role in ('scheduler', 'worker', 'api'));

-- postroad.enqueue takes over a key whose time is over: what was asked for before is not asked now.
create function postroad.forget_digest() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.digest := null;
    return new;
end $$;
create trigger dedup_is_taken_over before update of job_id on postroad.dedup
    for each row when (old.job_id <> new.job_id) execute function postroad.forget_digest();
