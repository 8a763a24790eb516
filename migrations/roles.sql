-- The least that each program needs, as group roles that cannot log in. A login user is a member of
-- one of them: create user my_worker login password '…' in role postroad_worker.
--
-- Run by `postroad migrate --roles`, as often as one likes, by a user who owns the schema and may
-- create roles. Roles belong to the whole server, grants and policies to this database.

-- === Roles ===

do $$
declare
    wanted text;
begin
    foreach wanted in array array['postroad_scheduler', 'postroad_worker', 'postroad_api', 'postroad_readonly'] loop
        begin
            execute format('create role %I nologin', wanted);
        exception
            -- Another database of this server has made it, or is making it now.
            when duplicate_object or unique_violation then null;
        end;
    end loop;
end $$;

revoke all on all tables in schema postroad
    from postroad_scheduler, postroad_worker, postroad_api, postroad_readonly;
grant usage on schema postroad to postroad_scheduler, postroad_worker, postroad_api, postroad_readonly;
grant select on postroad.schema_history
    to postroad_scheduler, postroad_worker, postroad_api, postroad_readonly;

grant execute on function postroad.changes_since(text) to postroad_worker, postroad_api;

-- === The scheduler ===

grant select, insert, update, delete on postroad.job, postroad.archive, postroad.attempt_error,
    postroad.dedup, postroad.process, postroad.schedule_tick, postroad.ledger_entry, postroad.ledger_total
    to postroad_scheduler;
grant select on postroad.tenant, postroad.kind, postroad.queue, postroad.schedule, postroad.operation,
    postroad.jobs, postroad.ledger, postroad.recipient, postroad.audience
    to postroad_scheduler;
-- The queue's row is the lock of its claims, and holds its token bucket.
grant update on postroad.queue to postroad_scheduler;
grant update (next_at, last_at) on postroad.schedule to postroad_scheduler;
grant update (cursor, done, updated_at, finished_at) on postroad.operation to postroad_scheduler;
grant select, delete on postroad.stop to postroad_scheduler;
grant update (lifted_at, cursor, pass_at, pass_is_last, pass_found, pass_after) on postroad.stop
    to postroad_scheduler;
grant select, insert, update, delete on postroad.stop_catch to postroad_scheduler;
grant select, delete on postroad.campaign to postroad_scheduler;
grant select on postroad.suppression to postroad_scheduler;
grant update (state, note, paused_by, rate_tokens, rate_at, canary, canary_passed_at, revives, due_at, rest,
    failures, ended_at, planned, last_recipient, estimate, gone_through_at, rejections)
    on postroad.campaign to postroad_scheduler;
grant insert on postroad.stop to postroad_scheduler;
grant select, update, delete on postroad.campaign_chunk to postroad_scheduler;
grant select, insert, update, delete on postroad.campaign_cursor to postroad_scheduler;
grant select, insert, update, delete on postroad.campaign_entry to postroad_scheduler;
grant select, insert, update on postroad.campaign_total to postroad_scheduler;
grant select on postroad.provider, postroad.breaker, postroad.tenant_bucket to postroad_scheduler;
grant update (rate_tokens, rate_at, retry_debt, retry_at) on postroad.provider to postroad_scheduler;
grant update (rate_tokens, rate_at) on postroad.tenant_bucket to postroad_scheduler;
grant select, delete on postroad.announcement, postroad.timeline_entry, postroad.timeline_reader
    to postroad_scheduler;
-- What is locked has to be one's own to change.
grant update (ends_at) on postroad.announcement, postroad.timeline_entry to postroad_scheduler;
grant update (marked_on) on postroad.timeline_reader to postroad_scheduler;
grant execute on function postroad.make_partitions(integer), postroad.drop_partitions(interval),
    postroad.forget_finished(date, integer[], bigint, bigint),
    postroad.is_archived(uuid), postroad.ensure_names(text[], text[], text[], integer) to postroad_scheduler;

-- === The worker ===

grant select, update, delete on postroad.job to postroad_worker;
grant select, insert on postroad.archive, postroad.attempt_error to postroad_worker;
grant select, insert, update on postroad.process, postroad.kind to postroad_worker;
grant select, insert on postroad.queue to postroad_worker;
grant select on postroad.tenant, postroad.tenant_secret, postroad.stop, postroad.suppression
    to postroad_worker;
grant insert on postroad.stop_catch to postroad_worker;
grant select on postroad.provider to postroad_worker;
grant select, insert, update, delete on postroad.breaker to postroad_worker;
grant select, insert on postroad.timeline_entry to postroad_worker;

-- === The api ===

grant select, insert, update, delete on postroad.job, postroad.dedup, postroad.schedule,
    postroad.recipient, postroad.audience to postroad_api;
grant select, insert, delete on postroad.archive to postroad_api;
-- Of a tenant, what is its own to set; limits, for operators, too: postroad.refuse_limits tells them apart.
grant update (weight, unfinished_max, submit_rate, in_pipe_max, rate_per_second, default_priority,
    default_max_attempts, default_expires_after, language, timezone, sms_sender) on postroad.tenant to postroad_api;
grant select on postroad.attempt_error, postroad.tenant, postroad.kind, postroad.queue,
    postroad.schedule_tick, postroad.jobs, postroad.ledger, postroad.ledger_entry,
    postroad.ledger_total, postroad.process to postroad_api;
grant insert on postroad.schedule_tick, postroad.audit_log to postroad_api;
grant select, insert on postroad.operation to postroad_api;
grant update (stopped_at, updated_at) on postroad.operation to postroad_api;
grant select, insert on postroad.stop to postroad_api;
grant update (lifted_at) on postroad.stop to postroad_api;
grant select on postroad.stop_catch to postroad_api;
grant select, insert on postroad.campaign to postroad_api;
grant update (state, note, paused_by, is_operators, canary, canary_passed_at, failure_max, approved_by,
    upload, planned, counts, revives, due_at, rest, failures, started_at, ended_at, cancelled_since)
    on postroad.campaign to postroad_api;
grant select, insert, delete on postroad.campaign_chunk, postroad.suppression to postroad_api;
grant select on postroad.campaign_cursor, postroad.campaign_entry, postroad.campaign_total
    to postroad_api;
grant select, insert on postroad.announcement to postroad_api;
grant update (content, ends_at, withdrawn_at, updated_at) on postroad.announcement to postroad_api;
grant select, insert, update on postroad.announcement_set to postroad_api;
grant select, delete on postroad.timeline_entry to postroad_api;
grant update (read_at) on postroad.timeline_entry to postroad_api;
grant select, insert, update, delete on postroad.timeline_reader to postroad_api;
grant update (paused_at, window_size, pipe_ttl, prefetch, rate_per_second, retention_days, provider_id,
    waiting_max, on_full)
    on postroad.queue to postroad_api;
grant select, insert, delete on postroad.provider to postroad_api;
grant update (unanswered_max, rate_per_second, rate_tokens, rate_at, retries_per_second, failure_max)
    on postroad.provider to postroad_api;
grant select, delete on postroad.breaker to postroad_api;
grant update (on_lost, max_attempts, timeout_set, backoff_base, backoff_cap, overridden_at) on postroad.kind to postroad_api;
grant execute on function postroad.find_token(text), postroad.good_token(text), postroad.touch_tokens(text[]),
    postroad.recipients_with(integer, jsonb, bigint), postroad.is_archived(uuid), postroad.ensure_names(text[], text[], text[], integer) to postroad_api;

-- === People who only look ===

grant select on postroad.job, postroad.archive, postroad.attempt_error, postroad.tenant, postroad.kind,
    postroad.queue, postroad.process, postroad.schedule, postroad.schedule_tick, postroad.operation,
    postroad.ledger_entry, postroad.ledger_total, postroad.jobs, postroad.ledger, postroad.stop,
    postroad.stop_catch, postroad.campaign, postroad.campaign_entry, postroad.campaign_total,
    postroad.campaign_cursor, postroad.recipient, postroad.audience, postroad.provider, postroad.breaker,
    postroad.announcement, postroad.announcement_set, postroad.timeline_entry, postroad.timeline_reader
    to postroad_readonly;

-- === Rows ===
--
-- A policy that is there is left alone: to make it anew would lock its table against everybody, and
-- these locks together against running programs. One whose condition has to change gets a new name.

do $$
declare
    bound text;
    policy record;
    mine constant text := '(tenant_id = (select postroad.visible_tenant()) or (select postroad.sees_all_tenants()))';
    condition text;
begin
    foreach bound in array array['job', 'archive', 'dedup', 'attempt_error', 'tenant', 'schedule',
        'schedule_tick', 'operation', 'audit_log', 'ledger_entry', 'ledger_total', 'stop', 'stop_catch',
        'campaign', 'campaign_chunk', 'campaign_entry', 'campaign_total', 'suppression', 'recipient',
        'audience', 'campaign_cursor', 'breaker', 'announcement', 'announcement_set', 'timeline_entry',
        'timeline_reader'] loop
        condition := case bound
            when 'tenant' then replace(mine, 'tenant_id', 'id')
            -- An error belongs to the tenant of its job; what of the job is not seen, is not there.
            when 'attempt_error' then '(exists (select from postroad.job j where j.id = job_id)
                or exists (select from postroad.archive a where a.id = job_id))'
            when 'campaign_chunk' then '(exists (select from postroad.campaign c where c.id = campaign_id))'
            when 'campaign_cursor' then '(exists (select from postroad.campaign c where c.id = campaign_id))'
            when 'campaign_entry' then '(exists (select from postroad.campaign c where c.id = campaign_id))'
            when 'campaign_total' then '(exists (select from postroad.campaign c where c.id = campaign_id))'
            when 'stop_catch' then '(exists (select from postroad.stop s where s.id = stop_id))'
            else mine
        end;
        for policy in
            select * from (values
                ('programs', 'to postroad_scheduler, postroad_worker using (true)'),
                ('people', 'for select to postroad_readonly using (true)'),
                ('one_tenant', format('to postroad_api using (%s)', condition)),
                -- What keeps everybody's jobs back, everybody may see.
                ('of_all', case bound when 'breaker' then 'for select to postroad_api using (tenant_id = 0)' end)
                ) wanted(name, clauses)
            where clauses is not null and not exists (
                select from pg_policy p
                where p.polname = wanted.name and p.polrelid = ('postroad.' || quote_ident(bound))::regclass)
        loop
            execute format('create policy %I on postroad.%I %s', policy.name, bound, policy.clauses);
        end loop;
    end loop;
end $$;
