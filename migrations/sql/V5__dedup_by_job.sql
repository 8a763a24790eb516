-- The way from a job to its dedup key, for whoever looks at the job.
--
-- Adds an index; the programs of the version before go on working beside it. Jobs with keys wait
-- while it is built: under a second for a million keys.

create index dedup_job on postroad.dedup (job_id);
