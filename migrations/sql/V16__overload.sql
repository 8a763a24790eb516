-- Overload: how many jobs may wait in a queue, and what becomes of those that are more.
--
-- Adds columns; the programs of the version before go on working beside it, but shed nothing and let in
-- what is refused.
--
-- Enqueueing, claims and outcomes wait while an empty index is built over the live table: about a second
-- for each million jobs that are not finished.

-- First, as claims lock it before the table of queues.
alter table postroad.job add column coalesce_key text
    constraint job_coalesce_key_length_in_range check (octet_length(coalesce_key) between 1 and 255);
comment on column postroad.job.coalesce_key is
    'Of waiting jobs of a tenant and kind with the same key only the newest is worth its place, when the queue is full.';
create index job_coalesced on postroad.job (queue_id, tenant_id, kind_id, coalesce_key, id)
    where stage = 0 and coalesce_key is not null;

alter table postroad.queue
    add column waiting_max integer
        constraint queue_waiting_max_is_positive check (waiting_max > 0),
    add column on_full     text not null default 'reject'
        constraint queue_on_full_is_known check (on_full in ('reject', 'drop', 'defer', 'coalesce')),
    add column full_at     timestamptz,
    add column shed_until  timestamptz;
comment on column postroad.queue.waiting_max is
    'How many of its jobs may be due and wait. Null: any number.';
comment on column postroad.queue.on_full is
    'What becomes of more. reject: they are not accepted. drop: the lowest class is shed, from whoever has '
    'most of it, the oldest first. defer: the same are due later. coalesce: of each coalesce_key all but '
    'the newest are shed, and if that is not enough, as with drop.';
comment on column postroad.queue.full_at is 'Since when nothing is accepted.';
comment on column postroad.queue.shed_until is 'A scheduler is shedding, and has until then: two at once would shed twice too much.';

drop trigger queue_is_told on postroad.queue;
create trigger queue_is_told after update of paused_at, window_size, pipe_ttl, prefetch, rate_per_second,
        provider_id, waiting_max, on_full, full_at
    on postroad.queue for each statement execute function postroad.tell_settings();

-- === The ledger says how many of the cancelled were shed ===

alter table postroad.ledger_entry add column shed integer not null default 0;
alter table postroad.ledger_total add column shed bigint not null default 0;
comment on column postroad.ledger_total.shed is 'Those of the cancelled ones that a full queue has shed.';

create or replace function postroad.note_finished() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired, shed)
    select tenant_id,
           count(*) filter (where state = 'completed'), count(*) filter (where state = 'dead'),
           count(*) filter (where state = 'cancelled'), count(*) filter (where state = 'expired'),
           count(*) filter (where state = 'cancelled' and reason in ('shed', 'coalesced'))
    from entered group by tenant_id;
    insert into postroad.campaign_entry (campaign_id, completed, dead, cancelled, expired, suppressed)
    select campaign_id,
           count(*) filter (where state = 'completed'), count(*) filter (where state = 'dead'),
           count(*) filter (where state = 'cancelled' and reason is distinct from 'suppressed'),
           count(*) filter (where state = 'expired'),
           count(*) filter (where state = 'cancelled' and reason = 'suppressed')
    from entered where campaign_id is not null group by campaign_id;
    return null;
end $$;

create or replace function postroad.note_unfinished() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired, shed)
    select tenant_id,
           -count(*) filter (where state = 'completed'), -count(*) filter (where state = 'dead'),
           -count(*) filter (where state = 'cancelled'), -count(*) filter (where state = 'expired'),
           -count(*) filter (where state = 'cancelled' and reason in ('shed', 'coalesced'))
    from left_archive group by tenant_id;
    insert into postroad.campaign_entry (campaign_id, completed, dead, cancelled, expired, suppressed)
    select campaign_id,
           -count(*) filter (where state = 'completed'), -count(*) filter (where state = 'dead'),
           -count(*) filter (where state = 'cancelled' and reason is distinct from 'suppressed'),
           -count(*) filter (where state = 'expired'),
           -count(*) filter (where state = 'cancelled' and reason = 'suppressed')
    from left_archive where campaign_id is not null group by campaign_id;
    return null;
end $$;

create or replace view postroad.ledger with (security_invoker = true) as
with noted as (
    -- A fold moves an entry into the total in one transaction, so any snapshot has it once.
    select tenant_id,
           sum(accepted)::bigint as accepted, sum(completed)::bigint as completed,
           sum(dead)::bigint as dead, sum(cancelled)::bigint as cancelled, sum(expired)::bigint as expired,
           sum(shed)::bigint as shed
    from (select tenant_id, accepted, completed, dead, cancelled, expired, shed from postroad.ledger_total
          union all
          select tenant_id, accepted, completed, dead, cancelled, expired, shed from postroad.ledger_entry) both_kinds
    group by tenant_id),
live as (
    -- Stage by stage, because each stage has its small index; scheduled jobs, which may be many,
    -- are counted in the index alone.
    select tenant_id,
           sum(scheduled)::bigint as scheduled, sum(dispatched)::bigint as dispatched,
           sum(running)::bigint as running, sum(failed)::bigint as failed, sum(held)::bigint as held
    from (select tenant_id, count(*) as scheduled, 0 as dispatched, 0 as running, 0 as failed, 0 as held
          from postroad.job where stage = 0 group by tenant_id
          union all
          select tenant_id, count(*), 0, 0, 0, 0 from postroad.job where stage = 4 group by tenant_id
          union all
          select tenant_id, 0, count(*) filter (where started_at is null), count(started_at), 0, 0
          from postroad.job where stage = 1 group by tenant_id
          union all
          select tenant_id, 0, 0, 0, count(*), 0 from postroad.job where stage = 2 group by tenant_id
          union all
          select tenant_id, 0, 0, 0, 0, count(*) from postroad.job where stage = 3 group by tenant_id) by_stage
    group by tenant_id),
account as (
    select t.name as tenant, coalesce(n.accepted, 0) as accepted,
           coalesce(l.scheduled, 0) as scheduled, coalesce(l.dispatched, 0) as dispatched,
           coalesce(l.running, 0) as running, coalesce(l.failed, 0) as failed,
           coalesce(l.held, 0) as held, coalesce(n.completed, 0) as completed,
           coalesce(n.dead, 0) as dead, coalesce(n.cancelled, 0) as cancelled,
           coalesce(n.expired, 0) as expired, coalesce(n.shed, 0) as shed
    from postroad.tenant t
    left join noted n on n.tenant_id = t.id
    left join live l on l.tenant_id = t.id)
select a.tenant, a.accepted, a.scheduled, a.dispatched, a.running, a.failed, a.held, a.completed, a.dead,
       a.cancelled, a.expired,
       accepted = scheduled + dispatched + running + failed + held
                + completed + dead + cancelled + expired as balanced,
       a.shed
from account a;

-- === A way in that can be closed ===

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
    if exists (select from postroad.queue q where q.name = enqueue.queue and q.full_at is not null) then
        raise exception 'the queue "%" is full: as many jobs wait in it as may', enqueue.queue
            using errcode = 'configuration_limit_exceeded', hint = 'Try again in a few seconds.';
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
