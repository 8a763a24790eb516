-- Audiences: whom a tenant writes to, and rules that pick some of them.
--
-- Adds tables; the programs of the version before go on working beside it.

create table postroad.recipient (
    id         bigint generated always as identity primary key,
    tenant_id  integer not null references postroad.tenant (id),
    key        text collate "C" not null
               constraint recipient_key_length_in_range check (octet_length(key) between 1 and 255),
    addresses  jsonb not null default '{}'
               constraint recipient_addresses_are_an_object check (jsonb_typeof(addresses) = 'object'),
    language   text collate "C"
               constraint recipient_language_is_a_tag
               check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$' and octet_length(language) <= 35),
    country    text collate "C"
               constraint recipient_country_is_two_letters check (country ~ '^[A-Z]{2}$'),
    timezone   text collate "C" not null default ''
               constraint recipient_timezone_length_in_range check (octet_length(timezone) <= 100),
    birth_date date
               constraint recipient_birth_date_in_range
               check (birth_date between date '1850-01-01' and date '2199-12-31'),
    plan       text collate "C"
               constraint recipient_plan_length_in_range check (char_length(plan) between 1 and 63),
    attributes jsonb not null default '{}'
               constraint recipient_attributes_are_an_object check (jsonb_typeof(attributes) = 'object'),
    instants   jsonb not null default '{}'
               constraint recipient_instants_are_an_object check (jsonb_typeof(instants) = 'object'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint recipient_key_is_free unique (tenant_id, key)
);
comment on table postroad.recipient is 'Somebody a tenant may write to.';
comment on column postroad.recipient.id is
    'The order in which campaigns go through them. It stays the same for as long as the recipient is there.';
comment on column postroad.recipient.key is 'What the tenant calls it.';
comment on column postroad.recipient.addresses is 'Where it is reached, by the name of the channel.';
comment on column postroad.recipient.timezone is 'A name of the IANA database. Empty: it is not known.';
comment on column postroad.recipient.attributes is 'Anything else that the tenant knows of it, by name.';
comment on column postroad.recipient.instants is
    'Those of the attributes that are RFC 3339 dates and timestamps, in microseconds since 1970: '
    'so no query ever has to read a text as one.';

-- A campaign goes through a tenant's recipients in this order, or through those of one zone.
create index recipient_of_tenant on postroad.recipient (tenant_id, id);
create index recipient_of_zone on postroad.recipient (tenant_id, timezone, id);
-- Counting what few have. Whatever is not selective is read in the order of the table.
create index recipient_of_country on postroad.recipient (tenant_id, country);
create index recipient_attributes on postroad.recipient using gin (attributes jsonb_path_ops);

-- Under a policy Postgres does not let the API use the index on attributes: comparing jsonb might
-- tell of rows that are not to be seen. This may, and checks first whose rows are asked for.
create function postroad.recipients_with(tenant integer, wanted jsonb, most bigint) returns setof bigint
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select r.id from postroad.recipient r
    where (recipients_with.tenant = postroad.visible_tenant() or postroad.sees_all_tenants())
      and r.tenant_id = recipients_with.tenant and r.attributes @> wanted
    limit most
$$;
comment on function postroad.recipients_with is
    'Recipients of the tenant that this transaction has named whose attributes contain these; so many at most.';
revoke all on function postroad.recipients_with(integer, jsonb, bigint) from public;

create table postroad.audience (
    id         bigint generated always as identity primary key,
    tenant_id  integer not null references postroad.tenant (id),
    name       text not null
               constraint audience_name_is_a_name check (postroad.is_name(name)),
    -- Not jsonb, which would write a number of a hundred digits out.
    rules      json not null
               constraint audience_rules_at_most_128_kib check (octet_length(rules::text) <= 131072),
    version    integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint audience_name_is_free unique (tenant_id, name)
);
comment on table postroad.audience is 'Rules that pick some of a tenant''s recipients, by a name.';
comment on column postroad.audience.version is 'Raised by every change of the rules.';

alter table postroad.recipient enable row level security;
alter table postroad.audience enable row level security;
