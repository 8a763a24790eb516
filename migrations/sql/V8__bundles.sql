-- Bundles: under backlog several due jobs of a queue travel in one message. A scheduler makes them
-- only where everybody who may get one can read it, and only as large as the workers' places and the
-- window allow.
--
-- Adds columns; the programs of the version before go on working beside it, and as they do not write
-- them, no bundle is made that one of them could get.

alter table postroad.process
    add column reads_bundles boolean not null default false,
    add column prefetch      integer
        constraint process_prefetch_is_positive check (prefetch > 0);
comment on column postroad.process.reads_bundles is
    'Whether it can read messages with several jobs. Schedulers get them as dead letters.';
comment on column postroad.process.prefetch is
    'How many jobs of a queue the worker runs at once, unless the queue''s own prefetch says otherwise.';
