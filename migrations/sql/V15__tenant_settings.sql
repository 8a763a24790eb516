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
-- A tenant that is disabled has no good tokens.
create trigger tenant_tokens_are_noted after update of disabled_at on postroad.tenant
    for each row execute function postroad.note_change('token', 'id');
-- Not of last_used_at, which changes once a minute.
create trigger token_is_noted after delete or update of revoked_at, scopes, expires_at, secret_hash, tenant_id on postroad.token
    for each row execute function postroad.note_change('token');
-- Not of the token bucket, which changes with every claim.
create trigger queue_is_noted after update of prefetch, provider_id on postroad.queue
    for each row execute function postroad.note_change('queue', '');
create trigger provider_is_noted after update of unanswered_max, failure_max on postroad.provider
    for each row execute function postroad.note_change('queue', '');
create trigger kind_is_noted after update of timeout_set on postroad.kind
    for each row execute function postroad.note_change('kind', '');
revoke all on function postroad.changes_since(text) from public;

-- === Tokens ===

-- What find_token says, which is for the programs of the version before, without what is the
-- tenant's own to say, and with how long it holds: time alone ends a token, too.
create function postroad.good_token(token_id text)
    returns table (secret_hash bytea, tenant_id integer, tenant text, scopes text[], good_for double precision)
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select k.secret_hash, k.tenant_id, t.name, k.scopes,
           extract(epoch from k.expires_at - now())::double precision
    from postroad.token k left join postroad.tenant t on t.id = k.tenant_id
    where k.id = token_id and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > now())
      and (k.tenant_id is null or t.disabled_at is null)
$$;
revoke all on function postroad.good_token(text) from public;
comment on function postroad.good_token is
    'The token of this id, if it is good now, and for how many seconds it is if nobody changes it (null: for ever).';

-- === Settings ===

alter table postroad.tenant
    add column language   text
               constraint tenant_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$' and length(language) <= 35),
    add column timezone   text
               constraint tenant_timezone_length_in_range check (length(timezone) between 1 and 100),
    add column sms_sender text
               constraint tenant_sms_sender_is_one
               check (sms_sender ~ '^(\+[0-9]{7,15}|[A-Za-z0-9]{1,11})$' and sms_sender !~ '^[0-9]+$');
comment on column postroad.tenant.language is
    'The language of its campaigns that name none: a tag by BCP 47. Null: they must.';
comment on column postroad.tenant.timezone is
    'The time zone of its campaigns and schedules that name none, by its IANA name. Null: UTC.';
comment on column postroad.tenant.sms_sender is
    'Who its text messages are from: a name, or a phone number in E.164. Null: as the gateway has it.';

-- Behind the API's own check: whoever acts for one tenant does not set what operators grant it.
create function postroad.refuse_limits() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'limits of tenants are set by operators' using errcode = 'insufficient_privilege';
end $$;
create trigger tenant_limits_are_operators before update on postroad.tenant
    for each row when (
        (old.name, old.weight, old.unfinished_max, old.submit_rate, old.in_pipe_max, old.rate_per_second,
         old.disabled_at)
            is distinct from (new.name, new.weight, new.unfinished_max, new.submit_rate, new.in_pipe_max,
                new.rate_per_second, new.disabled_at)
        and postroad.visible_tenant() > 0)
    execute function postroad.refuse_limits();
