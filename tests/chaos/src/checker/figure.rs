//! What must not be seen, each by a name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A figure that must be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Jobs that a client was told of and that have no row at the end, in any state.
    Lost,
    /// `completed` rows whose provider never did what they stand for.
    Silent,
    /// Calls and rows that nobody asked for, or whose client was told no.
    Unexpected,
    /// Effects repeated for no reason that an outside observer saw.
    UnexplainedDuplicates,
    /// Calls for a `hold` kind after one that may have worked, with no decision in between.
    HoldRepeats,
    /// Calls before their job was due.
    Early,
    /// Calls after `expires_at`.
    LateStarts,
    /// Calls and rows under a tenant that is not their job's.
    CrossTenant,
    /// Accepted ticks that came to nothing.
    MissedTicks,
    /// Jobs of a tick beyond its one.
    ExtraTicks,
    /// Jobs of a dedup key beyond its one, and answers with another key's job.
    DedupBreaks,
    /// Jobs whose success was recorded more than once.
    DoubleSuccess,
    /// Moves that the state machine, the fence or the attempts do not allow.
    IllegalMoves,
    /// Rows that are not where their log left them.
    Contradictions,
    /// Messages in queues that must be empty at the end.
    MessagesLeft,
    /// Rows that are `dispatched`, `running` or `failed` at the end.
    Unfinished,
    /// Rows that are `scheduled` at the end although they were due.
    Pending,
    /// Looks at the pipe that saw fewer messages than jobs, outside of faults.
    Unbacked,
}

impl Figure {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 18] = [
        Self::Lost,
        Self::Silent,
        Self::Unexpected,
        Self::UnexplainedDuplicates,
        Self::HoldRepeats,
        Self::Early,
        Self::LateStarts,
        Self::CrossTenant,
        Self::MissedTicks,
        Self::ExtraTicks,
        Self::DedupBreaks,
        Self::DoubleSuccess,
        Self::IllegalMoves,
        Self::Contradictions,
        Self::MessagesLeft,
        Self::Unfinished,
        Self::Pending,
        Self::Unbacked,
    ];

    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Unexpected => "unexpected",
            Self::UnexplainedDuplicates => "unexplained_duplicates",
            Self::HoldRepeats => "hold_repeats",
            Self::Early => "early",
            Self::LateStarts => "late_starts",
            Self::CrossTenant => "cross_tenant",
            Self::MissedTicks => "missed_ticks",
            Self::ExtraTicks => "extra_ticks",
            Self::DedupBreaks => "dedup_breaks",
            Self::DoubleSuccess => "double_success",
            Self::IllegalMoves => "illegal_moves",
            Self::Contradictions => "contradictions",
            Self::MessagesLeft => "messages_left",
            Self::Unfinished => "unfinished",
            Self::Pending => "pending",
            Self::Unbacked => "unbacked",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
