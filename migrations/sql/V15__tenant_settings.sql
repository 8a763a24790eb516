-- What has changed, so that programs may keep in memory what they read of tenants, and ask the
-- database once for all of it whether that still holds.
--
-- A change is noted in the transaction that makes it, under that transaction's id. Whoever looks
-- keeps the snapshot of its last look, and finds what is visible now and was not then: so it does not
-- matter in which order transactions commit, nobody waits for anybody to take a number, and nothing
-- has to be pruned, as there is one row for each thing that can change.
--
-- Adds a table, functions, triggers and columns; the programs of the version before go on working
-- beside it, and are told of changes as before.

create table postroad.change (
    topic     text    not null,
    tenant_id integer not null,
    xid       xid8    not null,
    primary key (topic, tenant_id)
) with (fillfactor = 50);
create index change_xid on postroad.change (xid);
comment on table postroad.change is
    'The last transaction that has changed something, by what it is about and whose it is. No keys to other tables: the note outlives what it is about.';
comment on column postroad.change.tenant_id is 'Whose it is. 0: nobody''s, or everybody''s.';

create function postroad.note_change() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Whoever is not one tenant's says so with a second argument.
    column_of_tenant constant text := coalesce(tg_argv[1], 'tenant_id');
    changed constant jsonb := case tg_op when 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
begin
    insert into postroad.change as c (topic, tenant_id, xid)
    values (tg_argv[0], coalesce((changed ->> column_of_tenant)::integer, 0), pg_current_xact_id())
    on conflict (topic, tenant_id) do update set xid = excluded.xid where c.xid <> excluded.xid;
    return null;
end $$;
comment on function postroad.note_change is
    'A trigger after each row: notes a change of the topic that is its first argument, for the tenant in the column that is its second (tenant_id), in the same transaction.';

create function postroad.changes_since(seen text) returns table (topic text, tenant_id integer)
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select c.topic, c.tenant_id from postroad.change c
    where c.xid >= pg_snapshot_xmin(seen::pg_snapshot)
      and not pg_visible_in_snapshot(c.xid, seen::pg_snapshot)
      -- What a dump has brought from another server bears that one's ids.
      and pg_visible_in_snapshot(c.xid, pg_current_snapshot())
$$;
comment on function postroad.changes_since is
    'What has changed between this snapshot and the caller''s own. Null: nothing is compared.';

create trigger tenant_is_noted after insert or update or delete on postroad.tenant
    for each row execute function postroad.note_change('tenant', 'id');
create trigger tenant_secret_is_noted after insert or update or delete on postroad.tenant_secret
    for each row execute function postroad.note_change('secret');
-- Not of last_used_at, which changes once a minute.
create trigger token_is_noted after update of revoked_at, scopes, expires_at on postroad.token
    for each row execute function postroad.note_change('token');
-- Not of the token bucket, which changes with every claim.
create trigger queue_is_noted after update of prefetch on postroad.queue
    for each row execute function postroad.note_change('queue', '');
create trigger kind_is_noted after update of timeout_set on postroad.kind
    for each row execute function postroad.note_change('kind', '');
revoke all on function postroad.changes_since(text) from public;
