-- What a job of a tenant gets where whoever hands it in says nothing.
--
-- Adds columns, and replaces postroad.enqueue by one of the same parameters; the programs of the
-- version before go on working beside it. What those hand in has no defaults of its tenant's yet.

alter table postroad.tenant
    add column default_priority      smallint
               constraint tenant_default_priority_in_range check (default_priority between 0 and 3),
    add column default_max_attempts  integer
               constraint tenant_default_max_attempts_in_range check (default_max_attempts between 1 and 1000),
    add column default_expires_after interval
               constraint tenant_default_expires_after_in_range
               check (default_expires_after between interval '1 second' and interval '366 days');
comment on column postroad.tenant.default_priority is
    'The priority of its jobs that are handed in without one. Null: 1.';
comment on column postroad.tenant.default_max_attempts is
    'The max_attempts of its jobs that are handed in without. Null: the kind''s.';
comment on column postroad.tenant.default_expires_after is
    'How long after it is due, or handed in if that is later, a job without an expires_at is pointless. Null: never.';

create function postroad.default_expiry(run_at timestamptz, expires_after interval) returns timestamptz
    language sql stable parallel safe
    -- Never in the past: what nobody has said must not end a job before it began. And never beyond
    -- what postroad.job takes. (`least` passes over nulls.)
    return case when expires_after is not null then
        least(greatest(run_at, now()) + expires_after, timestamptz '2199-12-31 23:59:59.999999+00')
    end;
comment on function postroad.default_expiry is
    'When a job without an expires_at is pointless, by its tenant''s default_expires_after.';

-- As before, but for its last statement, and for a priority that may be left out.
create or replace function postroad.enqueue(
    kind         text,
    args         text        default '{}',
    queue        text        default 'default',
    run_at       timestamptz default null,
    priority     integer     default null,
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
    if not (enqueue.priority between 0 and 3) then
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
    select new_id, postroad.queue_id(enqueue.queue), kind_ref, tenant_ref, enqueue.args::json,
        coalesce(enqueue.priority, t.default_priority, 1), due,
        coalesce(enqueue.expires_at, postroad.default_expiry(due, t.default_expires_after)),
        coalesce(enqueue.max_attempts, t.default_max_attempts), enqueue.on_lost, enqueue.traceparent
    -- An outer join: a tenant that is missing after all fails the insert, rather than dropping its job.
    from (values (tenant_ref)) given(id) left join postroad.tenant t on t.id = given.id;
    return new_id;
end $$;

-- The same for callers that hold json or jsonb. An untyped literal goes to the text version.
create or replace function postroad.enqueue(
    kind text, args json, queue text default 'default', run_at timestamptz default null,
    priority integer default null, expires_at timestamptz default null, dedup_key text default null,
    tenant text default 'default', max_attempts integer default null, on_lost text default null,
    dedup_for interval default '24 hours', traceparent text default null
) returns uuid language sql as $$
    select postroad.enqueue(kind, args::text, queue, run_at, priority, expires_at, dedup_key, tenant,
        max_attempts, on_lost, dedup_for, traceparent)
$$;
create or replace function postroad.enqueue(
    kind text, args jsonb, queue text default 'default', run_at timestamptz default null,
    priority integer default null, expires_at timestamptz default null, dedup_key text default null,
    tenant text default 'default', max_attempts integer default null, on_lost text default null,
    dedup_for interval default '24 hours', traceparent text default null
) returns uuid language sql as $$
    select postroad.enqueue(kind, args::text, queue, run_at, priority, expires_at, dedup_key, tenant,
        max_attempts, on_lost, dedup_for, traceparent)
$$;
