-- The ledger: accepted = the sum over all states, per tenant, at every moment.
--
-- What was accepted and what was finished is written down by triggers in the transaction that does
-- it, beside the tables and not read off them: a balance between a table and itself would always
-- be true. Each statement adds one small row per tenant, which nobody else touches, so the ledger
-- has no hot row; schedulers fold these entries into totals (docs/adr/0004-ledger.md).
--
-- What moves the ledger:
--   * a row that enters the live table under fence 0 is a new job: accepted + 1;
--   * a row that enters the archive: its state + 1;
--   * a row that is deleted from the archive: its state - 1. Dropping a partition is not a delete.
-- So a job that is to live again is deleted from the archive and inserted into the live table
-- under its old fence, `greatest(dispatch, 1)` if need be: it is not accepted a second time.
--
-- Enqueueing and finishing wait while the opening balance is counted: a second or two for each
-- million rows that are kept.

-- === Entries and totals ===

create table postroad.ledger_entry (
    tenant_id integer not null,
    accepted  integer not null default 0,
    completed integer not null default 0,
    dead      integer not null default 0,
    cancelled integer not null default 0,
    expired   integer not null default 0
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);
comment on table postroad.ledger_entry is
    'What one statement did to one tenant''s ledger, until a scheduler folds it into the total.';

create table postroad.ledger_total (
    tenant_id integer not null primary key,
    accepted  bigint not null,
    completed bigint not null,
    dead      bigint not null,
    cancelled bigint not null,
    expired   bigint not null
) with (fillfactor = 50);
comment on table postroad.ledger_total is
    'The folded entries. Outlives the archive''s partitions: what was finished stays counted.';

-- === Triggers ===

-- Of their owner, like postroad.enqueue: whoever may insert need not know of the ledger.

create function postroad.note_accepted() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, accepted)
    select tenant_id, count(*) from entered where dispatch = 0 group by tenant_id;
    return null;
end $$;
comment on function postroad.note_accepted is 'Enters new jobs into the ledger. Those that come back have a fence.';

create function postroad.note_finished() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired)
    select tenant_id,
           count(*) filter (where state = 'completed'), count(*) filter (where state = 'dead'),
           count(*) filter (where state = 'cancelled'), count(*) filter (where state = 'expired')
    from entered group by tenant_id;
    return null;
end $$;
comment on function postroad.note_finished is 'Enters finished jobs into the ledger.';

create function postroad.note_unfinished() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired)
    select tenant_id,
           -count(*) filter (where state = 'completed'), -count(*) filter (where state = 'dead'),
           -count(*) filter (where state = 'cancelled'), -count(*) filter (where state = 'expired')
    from left_archive group by tenant_id;
    return null;
end $$;
comment on function postroad.note_unfinished is 'Takes rows that leave the archive one by one off the ledger.';

create trigger job_is_accepted after insert on postroad.job
    referencing new table as entered
    for each statement execute function postroad.note_accepted();

-- On the parent: fires for rows that enter through it, whatever their partition.
create trigger job_is_finished after insert on postroad.archive
    referencing new table as entered
    for each statement execute function postroad.note_finished();

create trigger job_is_unfinished after delete on postroad.archive
    referencing old table as left_archive
    for each statement execute function postroad.note_unfinished();

-- === The opening balance ===

-- Creating the triggers has locked both tables against writers: this is exact.
insert into postroad.ledger_total (tenant_id, accepted, completed, dead, cancelled, expired)
select tenant_id, count(*),
       count(*) filter (where state = 'completed'), count(*) filter (where state = 'dead'),
       count(*) filter (where state = 'cancelled'), count(*) filter (where state = 'expired')
from (select tenant_id, null::postroad.job_state as state from postroad.job
      union all
      select tenant_id, state from postroad.archive) known
group by tenant_id;

-- === For people ===

create view postroad.ledger as
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
comment on view postroad.ledger is
    'Per tenant: accepted, and where those jobs are. Not balanced means that a job is lost or doubled.';
