-- Campaigns: one row and a cursor, whatever the number of recipients. Recipients lie in chunks of a
-- thousand; a job is made of each only as room in the pipe becomes free. What of a campaign is where
-- is told from rows, as the ledger does it.
--
-- Adds columns and tables; the programs of the version before go on working beside it, but they ask
-- neither who is suppressed nor who may be reached, and do not count what they finish for its campaign:
-- replace them before the first campaign is started.
--
-- Everything that touches a job waits while two empty indexes are built over the live table and one over
-- the archive: about a second for each five million rows that are kept.

-- === Campaigns ===

create table postroad.campaign (
    id               bigint generated always as identity primary key,
    public_id        uuid not null unique,
    tenant_id        integer not null references postroad.tenant (id),
    name             text not null
                     constraint campaign_name_length_in_range check (octet_length(name) between 1 and 200),
    state            text not null default 'draft'
                     constraint campaign_state_is_known check (state in
                         ('draft', 'awaiting_approval', 'running', 'paused', 'cancelled', 'expired', 'finished')),
    note             text not null default '',
    content          json not null,
    reach            json not null default '{}',
    audience         jsonb,
    region           text,
    start_at         timestamptz,
    expires_at       timestamptz,
    rate_per_second  integer
                     constraint campaign_rate_in_range check (rate_per_second between 1 and 1000000),
    rate_tokens      double precision not null default 0,
    rate_at          timestamptz not null default now(),
    canary           bigint
                     constraint campaign_canary_is_positive check (canary > 0),
    canary_share     double precision
                     constraint campaign_canary_share_in_range check (canary_share > 0 and canary_share < 1),
    canary_passed_at timestamptz,
    failure_max      double precision
                     constraint campaign_failure_max_in_range check (failure_max >= 0 and failure_max <= 1),
    needs_approval   boolean not null default false,
    approved_by      text,
    upload           uuid,
    planned          bigint not null default 0,
    counts           json,
    revives          boolean not null default false,
    paused_by        text not null default ''
                     constraint campaign_paused_by_is_known
                     check (paused_by in ('', 'person', 'canary', 'failures', 'content', 'stop', 'error')),
    is_operators     boolean not null default false,
    due_at           timestamptz not null default now(),
    rest             interval not null default '0',
    failures         integer not null default 0,
    created_by       text not null,
    created_at       timestamptz not null default now(),
    started_at       timestamptz,
    ended_at         timestamptz
) with (fillfactor = 50);
create index campaign_running on postroad.campaign (due_at) where state = 'running';
create index campaign_of_tenant on postroad.campaign (tenant_id, public_id);
comment on table postroad.campaign is 'One thing to be said to many: what, to whom, when, and how far it is.';
comment on column postroad.campaign.note is 'Why it is paused.';
comment on column postroad.campaign.reach is 'When recipients may be reached: send window, quiet hours, time zone.';
comment on column postroad.campaign.audience is 'The rules of whom it is for. Null: recipients are uploaded.';
comment on column postroad.campaign.canary is
    'Recipients that are made first: the rest waits until all of them have ended.';
comment on column postroad.campaign.failure_max is
    'It is paused when more than this share of what has ended is dead.';
comment on column postroad.campaign.upload is 'The upload whose chunks are its recipients.';
comment on column postroad.campaign.counts is 'Its recipients by channel and language.';
comment on column postroad.campaign.revives is
    'It was cancelled and is resumed: what was cancelled comes back before anything new is made.';
comment on column postroad.campaign.paused_by is 'Who has paused it, or what: whoever goes on has seen it.';
comment on column postroad.campaign.is_operators is 'An operator has paused or cancelled it, and only an operator goes on.';
comment on column postroad.campaign.due_at is
    'Not before then is it worth looking at. Of running campaigns the one that is due longest has its turn.';
comment on column postroad.campaign.rest is 'How long it rested last for want of room, or of an end: longer each time.';
comment on column postroad.campaign.failures is 'Steps that have failed, one after the other.';

create table postroad.campaign_chunk (
    campaign_id bigint not null references postroad.campaign (id) on delete cascade,
    upload      uuid not null,
    n           integer not null,
    zone        text not null,
    recipients  integer not null,
    taken       integer not null default 0,
    body        text not null,
    added_at    timestamptz not null default now(),
    primary key (campaign_id, upload, zone, n)
);
comment on table postroad.campaign_chunk is
    'Recipients of a campaign that have no job yet: up to a thousand of one time zone. Gone when all have one.';
comment on column postroad.campaign_chunk.taken is 'How many of them, from the first, have one.';

-- === What belongs to a campaign ===

alter table postroad.job
    add column campaign_id bigint,
    add column recipient   text,
    add column zone        text,
    add column closes_at   timestamptz;
comment on column postroad.job.recipient is 'Whom it is for, as the list of suppressed recipients has it.';
comment on column postroad.job.zone is 'The recipient''s time zone, where a campaign says when it may be reached.';
comment on column postroad.job.closes_at is 'From then on the recipient may not be reached; a scheduler looks when again.';
create index job_of_campaign on postroad.job (campaign_id, id) where campaign_id is not null;
create index job_closes on postroad.job (closes_at) where stage = 0 and closes_at is not null;

alter table postroad.archive
    add column campaign_id bigint,
    add column recipient   text,
    add column zone        text;
create index archive_of_campaign on postroad.archive (campaign_id, id)
    where campaign_id is not null and state <> 'completed';

alter table postroad.stop add column campaign_id bigint references postroad.campaign (id);
drop index postroad.stop_in_force;
create index stop_in_force on postroad.stop (coalesce(tenant_id, 0), coalesce(campaign_id, 0)) where lifted_at is null;
alter table postroad.stop drop constraint stop_names_something;
alter table postroad.stop add constraint stop_names_something
    check (num_nonnulls(tenant_id, queue_id, kind_id, campaign_id) > 0);

-- === Suppressed recipients ===

create table postroad.suppression (
    tenant_id  integer not null references postroad.tenant (id),
    recipient  text not null
               constraint suppression_recipient_length_in_range check (octet_length(recipient) between 1 and 255),
    kind_id    integer not null default 0,
    reason     text not null default ''
               constraint suppression_reason_is_short check (octet_length(reason) <= 500),
    created_at timestamptz not null default now(),
    primary key (tenant_id, recipient, kind_id)
);
comment on table postroad.suppression is
    'Who is not to get anything any more: the start gate asks right before a job begins.';
comment on column postroad.suppression.kind_id is '0: whatever the kind.';

-- === Accounts of campaigns, as the ledger's ===

create table postroad.campaign_entry (
    campaign_id bigint not null,
    made        integer not null default 0,
    completed   integer not null default 0,
    dead        integer not null default 0,
    cancelled   integer not null default 0,
    expired     integer not null default 0,
    suppressed  integer not null default 0,
    duplicates  integer not null default 0,
    rejected    integer not null default 0
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);
comment on table postroad.campaign_entry is
    'What one statement did to one campaign, until a scheduler folds it into the total.';

create table postroad.campaign_total (
    campaign_id bigint not null primary key,
    made        bigint not null,
    completed   bigint not null,
    dead        bigint not null,
    cancelled   bigint not null,
    expired     bigint not null,
    suppressed  bigint not null,
    duplicates  bigint not null,
    rejected    bigint not null
) with (fillfactor = 50);
comment on table postroad.campaign_total is 'The folded entries. Outlives the archive''s partitions.';

create or replace function postroad.note_accepted() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, accepted)
    select tenant_id, count(*) from entered where dispatch = 0 group by tenant_id;
    insert into postroad.campaign_entry (campaign_id, made)
    select campaign_id, count(*) from entered
    where campaign_id is not null and dispatch = 0 group by campaign_id;
    return null;
end $$;

create or replace function postroad.note_finished() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired)
    select tenant_id,
           count(*) filter (where state = 'completed'), count(*) filter (where state = 'dead'),
           count(*) filter (where state = 'cancelled'), count(*) filter (where state = 'expired')
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
    insert into postroad.ledger_entry (tenant_id, completed, dead, cancelled, expired)
    select tenant_id,
           -count(*) filter (where state = 'completed'), -count(*) filter (where state = 'dead'),
           -count(*) filter (where state = 'cancelled'), -count(*) filter (where state = 'expired')
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

alter table postroad.campaign enable row level security;
alter table postroad.campaign_chunk enable row level security;
alter table postroad.campaign_entry enable row level security;
alter table postroad.campaign_total enable row level security;
alter table postroad.suppression enable row level security;
