//! What each program must be allowed to do in the database: the same as `migrations/roles.sql`
//! grants, which a test compares.

use postroad_common::store::Need;

/// A program, and what it needs.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) needs: &'static [Need],
}

const fn to(privilege: &'static str, object: &'static str) -> Need {
    Need {
        object,
        column: None,
        privilege,
    }
}

const fn to_column(privilege: &'static str, object: &'static str, column: &'static str) -> Need {
    Need {
        object,
        column: Some(column),
        privilege,
    }
}

/// The programs that run for long.
pub(super) const PROGRAMS: [Program; 3] = [
    Program {
        name: "scheduler",
        needs: &[
            to("SELECT", "job"),
            to("INSERT", "job"),
            to("UPDATE", "job"),
            to("DELETE", "job"),
            to("SELECT", "archive"),
            to("INSERT", "archive"),
            to("DELETE", "archive"),
            to("SELECT", "attempt_error"),
            to("INSERT", "attempt_error"),
            to("DELETE", "dedup"),
            to("INSERT", "process"),
            to("UPDATE", "process"),
            to("DELETE", "process"),
            to("INSERT", "schedule_tick"),
            to("DELETE", "ledger_entry"),
            to("UPDATE", "ledger_total"),
            to("SELECT", "tenant"),
            to("SELECT", "kind"),
            to("UPDATE", "queue"),
            to("SELECT", "schedule"),
            to("UPDATE", "schedule"),
            to("SELECT", "operation"),
            to("UPDATE", "operation"),
            to("UPDATE", "stop"),
            to("INSERT", "stop_catch"),
            to("INSERT", "stop"),
            to("UPDATE", "campaign"),
            to("DELETE", "campaign_chunk"),
            to("DELETE", "campaign_entry"),
            to("UPDATE", "campaign_total"),
            to("SELECT", "recipient"),
            to("SELECT", "audience"),
            to("DELETE", "announcement"),
            to("DELETE", "timeline_entry"),
            to("DELETE", "timeline_reader"),
            to("EXECUTE", "make_partitions(integer)"),
            to("EXECUTE", "drop_partitions(interval)"),
            to(
                "EXECUTE",
                "forget_finished(date, integer[], bigint, bigint)",
            ),
        ],
    },
    Program {
        name: "worker",
        needs: &[
            to("SELECT", "job"),
            to("UPDATE", "job"),
            to("DELETE", "job"),
            to("INSERT", "archive"),
            to("INSERT", "attempt_error"),
            to("SELECT", "process"),
            to("INSERT", "process"),
            to("UPDATE", "process"),
            to("INSERT", "kind"),
            to("UPDATE", "kind"),
            to("INSERT", "queue"),
            to("SELECT", "tenant"),
            to("SELECT", "tenant_secret"),
            to("SELECT", "stop"),
            to("INSERT", "stop_catch"),
            to("SELECT", "suppression"),
            to("INSERT", "timeline_entry"),
        ],
    },
    Program {
        name: "api",
        needs: &[
            to("SELECT", "job"),
            to("INSERT", "job"),
            to("UPDATE", "job"),
            to("DELETE", "job"),
            to("INSERT", "dedup"),
            to("UPDATE", "dedup"),
            to("SELECT", "archive"),
            to("INSERT", "archive"),
            to("DELETE", "archive"),
            to("SELECT", "attempt_error"),
            to("SELECT", "tenant"),
            to("UPDATE", "queue"),
            to_column("UPDATE", "kind", "timeout_set"),
            // The newest: whoever lacks it has not asked for the roles again after an upgrade.
            to_column("UPDATE", "queue", "retention_days"),
            to("INSERT", "schedule"),
            to("UPDATE", "schedule"),
            to("DELETE", "schedule"),
            to("INSERT", "recipient"),
            to("UPDATE", "recipient"),
            to("DELETE", "recipient"),
            to("INSERT", "audience"),
            to("UPDATE", "audience"),
            to("DELETE", "audience"),
            to("INSERT", "announcement"),
            to_column("UPDATE", "announcement", "withdrawn_at"),
            to("UPDATE", "announcement_set"),
            to_column("UPDATE", "timeline_entry", "read_at"),
            to("INSERT", "timeline_reader"),
            to("INSERT", "operation"),
            to("UPDATE", "operation"),
            // The newest, too.
            to("INSERT", "stop"),
            to("UPDATE", "stop"),
            to("INSERT", "campaign"),
            to("UPDATE", "campaign"),
            to("INSERT", "campaign_chunk"),
            to("INSERT", "suppression"),
            to("INSERT", "audit_log"),
            to("SELECT", "ledger"),
            to("EXECUTE", "find_token(text)"),
            to("EXECUTE", "touch_tokens(text[])"),
            to("EXECUTE", "recipients_with(integer, jsonb, bigint)"),
            to("EXECUTE", "ensure_names(text[], text[], text[], integer)"),
        ],
    },
];
