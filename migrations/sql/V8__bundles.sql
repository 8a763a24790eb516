-- Bundles: under backlog several due jobs of a queue travel in one message. A scheduler makes them
-- only for workers that can read them, and only as large as the workers' places and the window allow.
--
-- Adds a column; the programs of the version before go on working beside it, and as they do not write
-- it, no bundle is made for a queue that one of their workers consumes.

alter table postroad.process
    add column prefetch integer
        constraint process_prefetch_is_positive check (prefetch > 0);
comment on column postroad.process.prefetch is
    'How many jobs of a queue the worker runs at once, unless the queue''s own prefetch says otherwise. '
    'Null: no worker, or one that can read only one job per message.';
