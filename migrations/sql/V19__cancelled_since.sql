-- Since when jobs of a campaign are cancelled that have not come back, so that a resume can tell whether
-- all of them are still kept.
--
-- Adds a column that the programs of the version before do not know, and need not: where it is null, the
-- last cancel counts.

alter table postroad.campaign add column cancelled_since timestamptz;
comment on column postroad.campaign.cancelled_since is
    'When it was cancelled first since all that was cancelled with it has come back.';
