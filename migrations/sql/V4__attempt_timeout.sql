-- How long an attempt may take, per kind: shown to operators, and theirs to set while workers run.
--
-- Adds columns; the programs of the version before go on working beside it.

alter table postroad.kind
    add column timeout interval
        constraint kind_timeout_is_positive check (timeout > interval '0'),
    add column timeout_set interval
        constraint kind_timeout_set_is_positive check (timeout_set > interval '0');
comment on column postroad.kind.timeout is
    'How long one attempt may take, as workers have it. Null: none that knows of this column has registered the kind.';
comment on column postroad.kind.timeout_set is
    'How long one attempt may take, as an operator has set it. Null: the workers'' own holds.';

create trigger kind_is_told after update of timeout_set on postroad.kind
    for each statement execute function postroad.tell_settings();
