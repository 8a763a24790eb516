-- Stops: work that is not to be started, by tenant, queue or kind, from the moment that this is
-- committed. Claims and the start gate ask; what they meet is set aside (stage 4), so that nobody
-- walks over it again, until the stop is lifted.
--
-- Adds columns, tables and a stage; the programs of the version before go on working beside it, but
-- know of no stop: until they are replaced, they start what is stopped. Before going back to them, lift
-- all stops and wait until `postroad queues list` shows nothing stopped: they would leave it as it is.
--
-- Enqueueing, claims and outcomes wait while two empty indexes are built over the live table: about a
-- second for each million jobs that are not finished.

-- First, as claims lock it before the table of queues, which the stops below refer to.
alter table postroad.job add column stopped_by uuid;
comment on column postroad.job.stopped_by is 'The stop that has set it aside.';
comment on column postroad.job.stage is
    '0 scheduled, 1 in the pipe (running once started_at is set), 2 failed, 3 held, 4 scheduled and set aside by a stop.';

create table postroad.stop (
    id           uuid not null primary key,
    tenant_id    integer references postroad.tenant (id),
    queue_id     integer references postroad.queue (id),
    kind_id      integer references postroad.kind (id),
    mode         text not null
                 constraint stop_mode_is_known check (mode in ('pause', 'cancel')),
    reason       text not null default ''
                 constraint stop_reason_is_short check (octet_length(reason) <= 500),
    actor        text not null,
    is_operators boolean not null default false,
    created_at   timestamptz not null default clock_timestamp(),
    lifted_at    timestamptz,
    -- A cancelling stop is about what was there when it was made.
    created_xid  xid8 not null default pg_current_xact_id(),
    open_then    text[] not null default '{}',
    cursor       uuid,
    pass_at      timestamptz,
    pass_is_last boolean not null default false,
    pass_found   boolean not null default false,
    pass_after   timestamptz,
    constraint stop_names_something check (num_nonnulls(tenant_id, queue_id, kind_id) > 0)
) with (fillfactor = 50);
create index stop_active on postroad.stop (created_at) where lifted_at is null;
create index stop_in_force on postroad.stop (coalesce(tenant_id, 0)) where lifted_at is null;
comment on table postroad.stop is
    'What is not to be started. A job is stopped if everything that is named fits: the tenant, the queue, the kind.';
comment on column postroad.stop.mode is
    'pause: what it stops waits until it is lifted, and what comes later, too. cancel: what was '
    'accepted before it is cancelled; when nothing is left of that, schedulers lift it.';
comment on column postroad.stop.is_operators is 'An operator has made it, and only an operator lifts it.';
comment on column postroad.stop.open_then is
    'The transactions that were open then, by their virtual ids: each may still commit a job that was '
    'accepted before. A pass that begins while one of them is open, or a prepared one from before created_xid, is not the last.';
comment on column postroad.stop.pass_is_last is 'Nobody could commit such a job any more when this pass began.';
comment on column postroad.stop.cursor is 'How far a scheduler has come in this pass over the jobs that are to be cancelled.';
comment on column postroad.stop.pass_found is 'Whether this pass has met a job that is not finished.';

create table postroad.stop_catch (
    stop_id uuid not null references postroad.stop (id) on delete cascade,
    place   text not null
            constraint stop_catch_place_is_known check (place in ('waiting', 'pipe', 'prefetched')),
    jobs    bigint not null
);
create index stop_catch_stop on postroad.stop_catch (stop_id);
comment on table postroad.stop_catch is
    'How many jobs a statement has stopped, and where: waiting in Postgres, in RabbitMQ, or in a worker''s hands.';

create index job_stopped on postroad.job (stopped_by, id) where stage = 4;
create index job_stopped_expiry on postroad.job (expires_at) where stage = 4 and expires_at is not null;

-- Not valid: what is there already fits the constraint before this one.
alter table postroad.job drop constraint job_stage_matches_its_columns;
alter table postroad.job add constraint job_stage_matches_its_columns check (
    case stage
        when 0 then claimed_at is null and claimed_by is null and started_at is null
                    and worker_id is null and ended_at is null
        when 1 then claimed_at is not null and dispatch > 0 and ended_at is null
                    and (started_at is null) = (worker_id is null)
        when 2 then claimed_at is not null and started_at is not null and ended_at is not null
        when 3 then claimed_at is not null and started_at is not null and ended_at is not null
        when 4 then claimed_at is null and claimed_by is null and started_at is null
                    and worker_id is null and ended_at is null and stopped_by is not null
        else false
    end
) not valid;

create or replace function postroad.live_state(stage smallint, started_at timestamptz) returns postroad.job_state
    language sql immutable parallel safe
    return (case stage
        when 0 then 'scheduled'
        when 1 then case when started_at is null then 'dispatched' else 'running' end
        when 2 then 'failed'
        when 3 then 'held'
        when 4 then 'scheduled'
    end)::postroad.job_state;

alter table postroad.stop enable row level security;
alter table postroad.stop_catch enable row level security;

-- As before, but for what is set aside, which is scheduled.
create or replace view postroad.ledger with (security_invoker = true) as
with noted as (
    -- A fold moves an entry into the total in one transaction, so any snapshot has it once.
    select tenant_id,
           sum(accepted)::bigint as accepted, sum(completed)::bigint as completed,
           sum(dead)::bigint as dead, sum(cancelled)::bigint as cancelled, sum(expired)::bigint as expired
    from (select tenant_id, accepted, completed, dead, cancelled, expired from postroad.ledger_total
          union all
          select tenant_id, accepted, completed, dead, cancelled, expired from postroad.ledger_entry) both_kinds
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
           coalesce(n.expired, 0) as expired
    from postroad.tenant t
    left join noted n on n.tenant_id = t.id
    left join live l on l.tenant_id = t.id)
select a.*,
       accepted = scheduled + dispatched + running + failed + held
                + completed + dead + cancelled + expired as balanced
from account a;
