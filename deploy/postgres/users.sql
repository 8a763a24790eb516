-- The users that the programs log in as, each a member of the group role that `postroad migrate
-- --roles` has made for it. Run as often as one likes, by a user who may create roles:
--
--   psql -v ON_ERROR_STOP=1 -f users.sql       with the four passwords in the environment
--
-- A new password in the environment holds from the next run on.

\getenv scheduler POSTGRES_SCHEDULER_PASSWORD
\getenv worker POSTGRES_WORKER_PASSWORD
\getenv api POSTGRES_API_PASSWORD
\getenv readonly POSTGRES_READONLY_PASSWORD

-- Statements with passwords are nothing for the server's log, whatever it logs otherwise.
set log_statement = 'none';
set log_min_duration_statement = -1;
set log_min_error_statement = 'panic';

begin;
select format('create role %I login', wanted)
from unnest(array['scheduler', 'worker', 'api', 'readonly']) wanted
where not exists (select from pg_roles where rolname = wanted) \gexec

alter role scheduler with login nosuperuser nocreatedb nocreaterole password :'scheduler';
alter role worker with login nosuperuser nocreatedb nocreaterole password :'worker';
alter role api with login nosuperuser nocreatedb nocreaterole password :'api';
alter role readonly with login nosuperuser nocreatedb nocreaterole password :'readonly';

grant postroad_scheduler to scheduler;
grant postroad_worker to worker;
grant postroad_api to api;
grant postroad_readonly to readonly;

-- By default anybody may connect, and fill temporary tables.
select format('revoke all on database %I from public', current_database()),
       format('grant connect on database %I to scheduler, worker, api, readonly', current_database())
\gexec
commit;
