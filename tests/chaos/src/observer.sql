-- The observer's own log of every move of every job, by triggers: what Postroad's programs say of
-- themselves is no evidence. Nothing of the product knows of this schema.

-- Its functions are their owner's: the programs' users know of none of it either.

create schema chaos;

create table chaos.move (
    seq             bigint generated always as identity primary key,
    at              timestamptz not null default clock_timestamp(),
    tx              xid8 not null default pg_current_xact_id(),
    id              uuid not null,
    -- A row that leaves the live table is logged twice: once as it goes, once as it arrives.
    in_archive      boolean not null,
    from_state      text,
    to_state        text,
    dispatch_before bigint not null,
    dispatch        bigint not null,
    attempt_before  integer not null,
    attempt         integer not null
);

-- Jobs of recurring schedules, as they were due when they came to be.
create table chaos.birth (
    id   uuid not null primary key,
    due  timestamptz not null,
    body text not null
);

create function chaos.job_of_schedule() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into chaos.birth (id, due, body) values (new.id, new.run_at, new.args ->> 'body')
    on conflict (id) do nothing;
    return null;
end $$;

create function chaos.job_moved() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into chaos.move (id, in_archive, from_state, to_state,
                            dispatch_before, dispatch, attempt_before, attempt)
    values (coalesce(new.id, old.id), false,
            postroad.live_state(old.stage, old.started_at)::text,
            postroad.live_state(new.stage, new.started_at)::text,
            coalesce(old.dispatch, new.dispatch), coalesce(new.dispatch, old.dispatch),
            coalesce(old.attempt, new.attempt), coalesce(new.attempt, old.attempt));
    return null;
end $$;

create function chaos.job_archived() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into chaos.move (id, in_archive, to_state,
                            dispatch_before, dispatch, attempt_before, attempt)
    values (new.id, true, new.state::text, new.dispatch, new.dispatch, new.attempt, new.attempt);
    return null;
end $$;

create trigger chaos_job after insert or update or delete on postroad.job
    for each row execute function chaos.job_moved();
create trigger chaos_birth after insert on postroad.job
    for each row when (new.args::text like '%"body":"schedule %')
    execute function chaos.job_of_schedule();
create trigger chaos_archive after insert on postroad.archive
    for each row execute function chaos.job_archived();
