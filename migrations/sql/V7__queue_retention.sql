-- Retention per queue: finished jobs of a queue that are forgotten although others are still kept.
--
-- Adds columns and functions; the programs of the version before go on working beside it.
--
-- Forgetting walks a day of the archive by blocks and deletes there: an index that would find the
-- rows of a queue would cost every job that finishes, for what is done once to each of them.

alter table postroad.queue
    add column retention_days   integer
        constraint queue_retention_days_in_range check (retention_days between 1 and 3650),
    add column forgotten_before date;
comment on column postroad.queue.retention_days is
    'After how many whole days finished jobs of it are forgotten. Null, and where the schedulers'' '
    'POSTROAD_RETENTION is shorter: with their partition.';
comment on column postroad.queue.forgotten_before is
    'Days of the archive before this one hold no finished jobs of it any more.';

create function postroad.forgettable() returns table (day date, child text, queues integer[])
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select p.day, p.child, array_agg(q.id order by q.id)
    from postroad.partitions() p
    join postroad.queue q on p.day < (now() at time zone 'UTC')::date - q.retention_days
                         and (q.forgotten_before is null or q.forgotten_before <= p.day)
    where p.parent = 'archive'
    group by p.day, p.child
$$;
comment on function postroad.forgettable is
    'Partitions of the archive that may hold finished jobs beyond their queues'' retention, and these queues.';

-- Of the owner, because it deletes from a partition by name. Like dropping the partition, that is
-- not a delete from the archive: no trigger takes these rows off the ledger, and what was finished
-- stays counted. So it forgets nothing but what a queue's retention says.
create function postroad.forget_finished(day date, queues integer[], from_block bigint, to_block bigint)
    returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    child text;
    forgotten bigint;
begin
    -- Two walks at once would do the work twice.
    if not pg_try_advisory_xact_lock(hashtextextended('postroad.forget_finished', 0)) then
        return null;
    end if;
    select f.child into child from postroad.forgettable() f
    where f.day = forget_finished.day and f.queues @> forget_finished.queues;
    if child is null then
        return null;
    end if;
    -- A row that somebody is about to bring back to life is not waited for: whoever retries several
    -- jobs locks them in another order.
    execute format(
        'delete from postroad.%1$I where ctid = any(array(
             select ctid from postroad.%1$I
             where ctid >= %2$L::tid and ctid < %3$L::tid and queue_id = any($1)
             for update nowait))',
        child, format('(%s,0)', from_block), format('(%s,0)', to_block))
    using queues;
    get diagnostics forgotten = row_count;
    return forgotten;
exception
    -- Locked, or dropped meanwhile.
    when lock_not_available or undefined_table then return null;
end $$;
comment on function postroad.forget_finished is
    'Deletes the finished jobs of these queues from these blocks of a day''s partition, the last one '
    'excluded, and says how many. Null: not now, or these queues'' jobs of that day are to be kept.';

revoke all on function postroad.forget_finished(date, integer[], bigint, bigint) from public;
