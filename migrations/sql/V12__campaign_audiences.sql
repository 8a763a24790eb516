-- Campaigns for audiences: whom rules pick, instead of an upload. Nothing is kept of a recipient before
-- it has a job: how far a campaign has gone through a tenant's recipients is one number for each time
-- zone.
--
-- Adds columns and a table; the programs of the version before go on working beside it, but for a
-- scheduler of theirs a campaign without an upload is one without recipients. It cannot finish one (see
-- the constraint), and pauses it instead: replace schedulers before the first of them is started.

-- Never used so far. Not jsonb, which would write a number of a hundred digits out.
alter table postroad.campaign drop column audience;
alter table postroad.campaign
    add column audience        json
        constraint campaign_audience_at_most_128_kib check (octet_length(audience::text) <= 131072),
    add column audience_name   text,
    add column last_recipient  bigint,
    add column estimate        bigint,
    add column gone_through_at timestamptz,
    add column rejections      json not null default '[]';
alter table postroad.campaign
    add constraint campaign_has_one_source check (audience is null or upload is null),
    add constraint campaign_is_gone_through
        check (state <> 'finished' or audience is null or gone_through_at is not null);
comment on column postroad.campaign.audience is
    'The rules of whom it is for, as they were when it was made. Null: recipients are uploaded.';
comment on column postroad.campaign.audience_name is 'The audience that had these rules then. Null: none, they were given with it.';
comment on column postroad.campaign.last_recipient is
    'The last of the tenant''s recipients when it began: who is put later is not in it. Null: it has not begun.';
comment on column postroad.campaign.estimate is
    'How many the rules picked when it began. Null: counting them would have taken too long, or recipients are uploaded.';
comment on column postroad.campaign.gone_through_at is
    'When the last recipient had had its turn. From then on planned is what the audience came to.';
comment on column postroad.campaign.rejections is 'Why no job could be made of recipients, and of how many for each reason.';

create table postroad.campaign_cursor (
    campaign_id bigint not null references postroad.campaign (id) on delete cascade,
    zone        text collate "C" not null,
    after_id    bigint not null default 0,
    primary key (campaign_id, zone)
) with (fillfactor = 50);
comment on table postroad.campaign_cursor is
    'How far a campaign for an audience has gone through recipients. Gone when there are no more.';
comment on column postroad.campaign_cursor.zone is
    'Of the recipients of which time zone. Empty: of those without one, or of all, where it does not matter.';

alter table postroad.campaign_cursor enable row level security;
