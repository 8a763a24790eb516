-- Pace: providers, which are queues that share what one other side can take; what a tenant may have
-- under way and start in a second; whose turn it is; and breakers.
--
-- Adds tables and columns; the programs of the version before go on working beside it, but keep to none
-- of this: until all schedulers are replaced, a rate is that of the new ones beside what the old claim.
-- Claims wait while columns are added to the tables of queues and tenants: a moment.

-- === Providers ===

create table postroad.provider (
    id                 integer generated always as identity primary key,
    name               text not null unique
                       constraint provider_name_is_a_name check (postroad.is_name(name)),
    unanswered_max     integer
                       constraint provider_unanswered_max_in_range check (unanswered_max between 1 and 2000),
    rate_per_second    integer
                       constraint provider_rate_in_range check (rate_per_second between 1 and 1000000),
    rate_tokens        double precision not null default 0,
    rate_at            timestamptz not null default now(),
    retries_per_second integer
                       constraint provider_retries_in_range check (retries_per_second between 1 and 1000000),
    retry_debt         double precision not null default 0,
    retry_at           timestamptz not null default now(),
    failure_max        double precision default 0.5
                       constraint provider_failure_max_in_range check (failure_max > 0 and failure_max <= 1),
    created_at         timestamptz not null default now()
) with (fillfactor = 50);
comment on table postroad.provider is
    'What is on the other side of some queues: an SMS gateway, a push service. Its limits are those of all its queues together.';
comment on column postroad.provider.unanswered_max is
    'Jobs of its queues that one worker may have under way at once, as a provider counts unanswered requests by connection.';
comment on column postroad.provider.rate_per_second is
    'Jobs of its queues that may enter the pipe in a second, by all schedulers together.';
comment on column postroad.provider.rate_tokens is
    'The token bucket of rate_per_second as it was at rate_at: it holds a quarter of a second''s worth, and one at least.';
comment on column postroad.provider.retries_per_second is
    'The budget of further attempts: more of them than that are spread over a longer time.';
comment on column postroad.provider.retry_debt is
    'Further attempts that were scheduled and for which the budget has not been there yet, as it was at retry_at.';
comment on column postroad.provider.failure_max is
    'The share of failed answers from which on its breaker opens. Null: never.';

alter table postroad.queue
    add column provider_id integer references postroad.provider (id),
    add column turn_tenant integer not null default 0,
    add column turn_left   bigint not null default 0;
comment on column postroad.queue.provider_id is 'Whose limits its jobs keep to, beside its own.';
comment on column postroad.queue.turn_tenant is
    'The tenant, or the next one after it that has due jobs, at whom the next claim begins: tenants are served in turn.';
comment on column postroad.queue.turn_left is
    'What is left of that tenant''s share: the claim before had no room for all of it.';
comment on column postroad.queue.rate_tokens is
    'The token bucket of rate_per_second as it was at rate_at: it holds a quarter of a second''s worth, and one at least.';
create index queue_of_provider on postroad.queue (provider_id) where provider_id is not null;

-- A bucket holds a quarter of a second's worth: what was saved up is not more than that over the rate.
create function postroad.tokens(rate integer, tokens double precision, at timestamptz) returns double precision
    language sql volatile parallel safe set search_path = pg_catalog, pg_temp
    return least(greatest(rate / 4.0, 1),
                 tokens + rate * greatest(extract(epoch from clock_timestamp() - at), 0));
comment on function postroad.tokens is 'What is in a token bucket now that had so many at that time.';

-- === Tenants ===

alter table postroad.tenant
    add column in_pipe_max     integer
        constraint tenant_in_pipe_max_in_range check (in_pipe_max between 1 and 100000),
    add column rate_per_second integer
        constraint tenant_rate_in_range check (rate_per_second between 1 and 1000000);
comment on column postroad.tenant.in_pipe_max is
    'Jobs of it in each queue that may be between the claim and the finish line at once.';
comment on column postroad.tenant.rate_per_second is
    'Jobs of it that may enter the pipe in a second, of all queues and by all schedulers together.';
create index tenant_paced on postroad.tenant (id) where in_pipe_max is not null or rate_per_second is not null;

create table postroad.tenant_bucket (
    tenant_id   integer not null primary key references postroad.tenant (id) on delete cascade,
    rate_tokens double precision not null default 0,
    rate_at     timestamptz not null default now()
) with (fillfactor = 50);
comment on table postroad.tenant_bucket is
    'The token buckets of tenants that have a rate, beside their rows: those are read everywhere.';

-- Of its owner: whoever may set a rate need not know of buckets.
create function postroad.give_tenant_a_bucket() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.tenant_bucket (tenant_id) values (new.id) on conflict do nothing;
    return null;
end $$;
create trigger tenant_has_a_bucket after insert or update of rate_per_second on postroad.tenant
    for each row when (new.rate_per_second is not null) execute function postroad.give_tenant_a_bucket();

-- === Breakers ===

create table postroad.breaker (
    provider_id integer not null references postroad.provider (id) on delete cascade,
    tenant_id   integer not null default 0,
    opened_at   timestamptz not null default now(),
    probe_at    timestamptz not null,
    rest        interval not null,
    trips       integer not null default 1,
    reason      text not null
                constraint breaker_reason_is_short check (octet_length(reason) <= 500),
    primary key (provider_id, tenant_id)
) with (fillfactor = 50);
comment on table postroad.breaker is
    'Breakers that are not closed: jobs of this provider and tenant stay in Postgres.';
comment on column postroad.breaker.tenant_id is '0: of all tenants.';
comment on column postroad.breaker.probe_at is
    'From then on a few jobs may try: one that succeeds closes it, and one that fails opens it again for longer.';
comment on column postroad.breaker.trips is 'How often it was opened without having been closed in between.';
alter table postroad.breaker enable row level security;

-- === Stops by provider ===

alter table postroad.stop add column provider_id integer references postroad.provider (id);
alter table postroad.stop drop constraint stop_names_something;
alter table postroad.stop add constraint stop_names_something
    check (num_nonnulls(tenant_id, queue_id, kind_id, provider_id, campaign_id) > 0);

-- === Who is told of a change ===

drop trigger queue_is_told on postroad.queue;
create trigger queue_is_told after update of paused_at, window_size, pipe_ttl, prefetch, rate_per_second, provider_id
    on postroad.queue for each statement execute function postroad.tell_settings();
create trigger provider_is_told after update of unanswered_max, failure_max on postroad.provider
    for each statement execute function postroad.tell_settings();
