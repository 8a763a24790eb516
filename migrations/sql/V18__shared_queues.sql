-- Whether tenants wait for each other in a queue.
--
-- Adds a column that the programs of the version before do not know, and need not.

alter table postroad.queue add column shared_until timestamptz;
comment on column postroad.queue.shared_until is
    'Until then its pipe holds hardly more than its workers run: a tenant without a backlog had jobs beside one with a backlog.';
