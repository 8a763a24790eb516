-- How long an attempt may take, per kind: shown to operators, and theirs to set while workers run.
--
-- Adds a column; the programs of the version before go on working beside it.

alter table postroad.kind
    add column timeout interval
        constraint kind_timeout_is_positive check (timeout > interval '0');
comment on column postroad.kind.timeout is
    'How long one attempt may take. Workers write their own, and keep to an operator''s if overridden_at is '
    'not null. Null: no worker that knows of this column has registered the kind.';

create trigger kind_is_told after update of timeout, overridden_at on postroad.kind
    for each statement execute function postroad.tell_settings();
