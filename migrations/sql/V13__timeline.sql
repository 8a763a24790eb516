-- The timeline: what a product shows its users inside itself. An announcement is one row, whomever it
-- is for; what is for one recipient alone is a row of its own.
--
-- Adds tables; the programs of the version before go on working beside it.

create table postroad.announcement (
    id           uuid not null primary key,
    tenant_id    integer not null references postroad.tenant (id),
    dedup_key    text collate "C"
                 constraint announcement_dedup_key_length_in_range
                 check (octet_length(dedup_key) between 1 and 255),
    fingerprint  bytea not null,
    -- Not jsonb, which would write a number of a hundred digits out.
    content      json not null
                 constraint announcement_content_at_most_64_kib check (octet_length(content::text) <= 65536),
    rules        json not null
                 constraint announcement_rules_at_most_128_kib check (octet_length(rules::text) <= 131072),
    audience     text,
    bytes        integer not null generated always as
                 (octet_length(content::text) + octet_length(rules::text)) stored,
    starts_at    timestamptz not null,
    ends_at      timestamptz not null,
    withdrawn_at timestamptz,
    created_by   text not null,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    constraint announcement_dedup_key_is_free unique (tenant_id, dedup_key),
    constraint announcement_ends_after_its_start
        check (ends_at > starts_at and ends_at <= starts_at + interval '367 days')
);
comment on table postroad.announcement is
    'Something that is shown to all recipients whom its rules pick, from its start to its end.';
comment on column postroad.announcement.dedup_key is 'Made again under this key, it is the same.';
comment on column postroad.announcement.fingerprint is 'SHA-256 of what was asked for under the key.';
comment on column postroad.announcement.content is 'What it says, by language.';
comment on column postroad.announcement.rules is 'Whom it is for. Those of an audience were copied.';
comment on column postroad.announcement.bytes is 'What it takes in the memory of whoever keeps it.';
comment on column postroad.announcement.audience is 'The name of the audience that the rules were copied from.';
comment on column postroad.announcement.withdrawn_at is 'Since when nobody sees it any more.';

create index announcement_of_tenant on postroad.announcement (tenant_id, id);
create index announcement_to_be_shown on postroad.announcement (tenant_id, ends_at)
    where withdrawn_at is null;
create index announcement_over on postroad.announcement (coalesce(withdrawn_at, ends_at));

create table postroad.announcement_set (
    tenant_id integer not null primary key references postroad.tenant (id),
    version   bigint not null default 1
) with (fillfactor = 50);
comment on table postroad.announcement_set is 'Tells whoever keeps a tenant''s announcements in memory that there are others.';
comment on column postroad.announcement_set.version is 'Raised by every change, in its transaction.';

-- The row of the set is the lock of its limits, too: whoever waits for it counts afterwards.
create function postroad.announcements_changed() returns trigger language plpgsql as $$
declare
    shown record;
begin
    insert into postroad.announcement_set as s (tenant_id) values (new.tenant_id)
    on conflict (tenant_id) do update set version = s.version + 1;
    select count(*) as announcements, coalesce(sum(a.bytes), 0) as bytes into shown
    from postroad.announcement a
    where a.tenant_id = new.tenant_id and a.withdrawn_at is null and a.ends_at > now();
    if shown.announcements > 1000 and tg_op = 'INSERT' then
        raise exception 'a tenant may have 1000 announcements that have not ended: withdraw one, or end it sooner'
            using errcode = 'program_limit_exceeded';
    end if;
    if shown.bytes > 8388608 and new.withdrawn_at is null then
        raise exception 'the announcements of a tenant that have not ended may have 8 MiB of content and rules together'
            using errcode = 'program_limit_exceeded';
    end if;
    return null;
end $$;
create trigger announcements_changed after insert or update on postroad.announcement
    for each row execute function postroad.announcements_changed();

-- Without a foreign key: entries are made by the million, from the rows of tenants that are there.
create table postroad.timeline_entry (
    tenant_id  integer not null,
    recipient  text collate "C" not null
               constraint timeline_entry_recipient_length_in_range
               check (octet_length(recipient) between 1 and 255),
    id         uuid not null,
    created_at timestamptz not null default now(),
    ends_at    timestamptz not null,
    read_at    timestamptz,
    language   text collate "C"
               constraint timeline_entry_language_at_most_35_bytes check (octet_length(language) <= 35),
    message    json not null
               constraint timeline_entry_message_at_most_32_kib check (octet_length(message::text) <= 32768),
    primary key (tenant_id, recipient, id),
    constraint timeline_entry_ends_after_its_start
        check (ends_at > created_at and ends_at <= created_at + interval '367 days')
) with (fillfactor = 90);
comment on table postroad.timeline_entry is 'Something that is shown to one recipient.';
comment on column postroad.timeline_entry.recipient is
    'What the tenant calls it. It need not be among the recipients.';
comment on column postroad.timeline_entry.id is 'That of the job that has made it: made again, it is the same.';
comment on column postroad.timeline_entry.read_at is
    'When it was marked by itself. Null: it is read if the reader''s watermark is not below it.';

create index timeline_entry_newest on postroad.timeline_entry (tenant_id, recipient, created_at, id);
create index timeline_entry_unread on postroad.timeline_entry (tenant_id, recipient, created_at, id)
    where read_at is null;
create index timeline_entry_over on postroad.timeline_entry (ends_at);

create table postroad.timeline_reader (
    tenant_id  integer not null references postroad.tenant (id),
    recipient  text collate "C" not null
               constraint timeline_reader_recipient_length_in_range
               check (octet_length(recipient) between 1 and 255),
    read_to    timestamptz not null default 'epoch',
    read_to_id uuid not null default '00000000-0000-0000-0000-000000000000',
    read_ids   uuid[] not null default '{}',
    -- A day, so that marking changes no index but once a day.
    marked_on  date not null default current_date,
    primary key (tenant_id, recipient)
) with (fillfactor = 80);
comment on table postroad.timeline_reader is 'How far a recipient has read.';
comment on column postroad.timeline_reader.read_to is
    'The watermark, with read_to_id: what was shown since then or before, and has no larger id if it is of this very moment, is read.';
comment on column postroad.timeline_reader.read_ids is
    'Announcements above the watermark that are read. What has ended is left out by the next mark.';

create index timeline_reader_marked on postroad.timeline_reader (marked_on);

alter table postroad.announcement enable row level security;
alter table postroad.announcement_set enable row level security;
alter table postroad.timeline_entry enable row level security;
alter table postroad.timeline_reader enable row level security;
