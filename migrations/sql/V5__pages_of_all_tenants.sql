-- An index for those who look for what did not go well among the jobs of all tenants: of the
-- archive's rows only those few, so that finishing a job that went well does not touch it.
--
-- A migration of its own, for this one takes time: while it is made, no job is finished, and nothing
-- else waits. The programs of the version before go on working beside it.

create index archive_not_well_of_all on postroad.archive (id) where state <> 'completed';
