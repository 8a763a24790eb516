//! A job as its producer describes it, checked before it is sent anywhere.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{JobId, KindName, OnLost, QueueName, TenantName};

/// The largest `args`, in bytes.
pub const ARGS_BYTES_MAX: usize = 256 * 1024;

/// How deep `args` may be nested. Postgres reads JSON recursively: from some ten thousand levels on,
/// by its own `max_stack_depth`, it would refuse the job and every other one of its batch.
pub const ARGS_NESTING_MAX: usize = 1000;

/// The longest `traceparent`, in bytes.
pub const TRACEPARENT_BYTES_MAX: usize = 255;

/// The longest wait of a job that is due after a while: in range for all of this century.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// How long a dedup key outlives the time its job is due, unless the producer says otherwise.
pub const DEDUP_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// When a job is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunAt {
    /// At once.
    #[default]
    Now,
    /// This long after it is accepted, by the database's clock.
    After(Duration),
    /// At this moment.
    At(Timestamp),
}

/// A job to be enqueued. Fields are public to be filled in; [`NewJob::check`] is the gate.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id. Sending the same id again is sending the same job again.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantName,
    /// Where it waits.
    pub queue: QueueName,
    /// What it is.
    pub kind: KindName,
    /// Its input, at most 256 KiB, kept byte for byte.
    pub args: Box<RawValue>,
    /// 0 first to 3 last; none: the tenant's default, or 1.
    pub priority: Option<i16>,
    /// When it is due.
    pub run_at: RunAt,
    /// When it is pointless; none: by the tenant's default, or never.
    pub expires_at: Option<Timestamp>,
    /// Overrides the tenant's default, and the kind's.
    pub max_attempts: Option<i32>,
    /// Overrides the kind's.
    pub on_lost: Option<OnLost>,
    /// A second job of the same tenant and kind with this key is the first one. At most 255 bytes.
    pub dedup_key: Option<String>,
    /// W3C trace context. At most 255 bytes.
    pub traceparent: Option<String>,
    /// Of waiting jobs of the same tenant and kind with this key only the newest is worth its place, in
    /// a queue that coalesces when it is full. At most 255 bytes.
    pub coalesce_key: Option<String>,
}

impl NewJob {
    /// A job of `kind` with `args`, in the queue and for the tenant called `default`, due now.
    pub fn new(kind: KindName, args: Box<RawValue>) -> Self {
        let default = "default";
        Self {
            id: JobId::new(),
            tenant: default.parse().expect("`default` is a name"),
            queue: default.parse().expect("`default` is a name"),
            kind,
            args,
            priority: None,
            run_at: RunAt::Now,
            expires_at: None,
            max_attempts: None,
            on_lost: None,
            dedup_key: None,
            traceparent: None,
            coalesce_key: None,
        }
    }

    /// Whether the database would take it; the first field it would not, otherwise.
    pub fn check(&self) -> Result<(), InvalidJob> {
        if self.args.get().len() > ARGS_BYTES_MAX {
            return Err(InvalidJob::new("args", "must be at most 256 KiB"));
        }
        if nesting(self.args.get()) > ARGS_NESTING_MAX {
            return Err(InvalidJob::new(
                "args",
                "must be nested at most 1000 levels deep",
            ));
        }
        if self.priority.is_some_and(|n| !(0..=3).contains(&n)) {
            return Err(InvalidJob::new(
                "priority",
                "must be from 0 (first) to 3 (last)",
            ));
        }
        if self.max_attempts.is_some_and(|n| !(1..=1000).contains(&n)) {
            return Err(InvalidJob::new("max_attempts", "must be from 1 to 1000"));
        }
        if self
            .dedup_key
            .as_ref()
            .is_some_and(|key| !(1..=255).contains(&key.len()))
        {
            return Err(InvalidJob::new("dedup_key", "must be 1 to 255 bytes"));
        }
        if self
            .dedup_key
            .as_ref()
            .is_some_and(|key| key.contains('\0'))
        {
            return Err(InvalidJob::new(
                "dedup_key",
                "must not contain a NUL character",
            ));
        }
        if self
            .traceparent
            .as_ref()
            .is_some_and(|t| t.len() > TRACEPARENT_BYTES_MAX || t.contains('\0'))
        {
            return Err(InvalidJob::new(
                "traceparent",
                "must be at most 255 bytes without NUL",
            ));
        }
        if self
            .coalesce_key
            .as_ref()
            .is_some_and(|key| !(1..=255).contains(&key.len()) || key.contains('\0'))
        {
            return Err(InvalidJob::new(
                "coalesce_key",
                "must be 1 to 255 bytes without NUL",
            ));
        }
        self.check_times()
    }

    fn check_times(&self) -> Result<(), InvalidJob> {
        let due = match self.run_at {
            RunAt::At(at) if !in_range(at) => {
                return Err(InvalidJob::new(
                    "run_at",
                    "must lie between the years 2000 and 2200",
                ));
            }
            RunAt::After(wait) if wait > DELAY_MAX => {
                return Err(InvalidJob::new("run_at", "must be at most 100 years ahead"));
            }
            RunAt::At(at) => Some(at),
            RunAt::Now | RunAt::After(_) => None,
        };
        match self.expires_at {
            Some(expiry) if !in_range(expiry) || due.is_some_and(|due| !is_later(expiry, due)) => {
                Err(InvalidJob::new(
                    "expires_at",
                    "must be later than run_at and before the year 2200",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The years 2000 to 2200: what the schema takes for a time.
fn in_range(at: Timestamp) -> bool {
    const FIRST_SECOND: i64 = 946_684_800;
    const LAST_SECOND: i64 = 7_258_118_400;
    (FIRST_SECOND..LAST_SECOND).contains(&at.as_second())
}

/// Whether it is later by the database's clock, which counts microseconds.
fn is_later(at: Timestamp, than: Timestamp) -> bool {
    at.as_microsecond() > than.as_microsecond()
}

/// How deep the lists and objects of a JSON text lie in each other.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Why a job cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct InvalidJob {
    /// The offending field.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl InvalidJob {
    fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> NewJob {
        NewJob::new(
            "echo".parse().unwrap(),
            serde_json::value::to_raw_value(&1).unwrap(),
        )
    }

    #[test]
    fn a_plain_job_passes() {
        assert_eq!(job().check(), Ok(()));
    }

    #[test]
    fn nesting_counts_what_is_open_at_once_and_no_text() {
        for (json, depth) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            ("[[],[],[]]", 2),
            (r#"["[[[[", "\"[[[", "\\", [1]]"#, 2),
        ] {
            assert_eq!(nesting(json), depth, "{json}");
        }
        let nested = |depth| {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            let args = RawValue::from_string(text).unwrap();
            NewJob { args, ..job() }
                .check()
                .map_err(|error| error.field)
        };
        assert_eq!(nested(ARGS_NESTING_MAX), Ok(()));
        assert_eq!(nested(ARGS_NESTING_MAX + 1), Err("args"));
    }

    #[test]
    fn an_expiry_is_later_by_the_clock_of_the_database() {
        let due: Timestamp = "2030-01-01T00:00:00.000000100Z".parse().unwrap();
        let expiring = |at: &str| NewJob {
            run_at: RunAt::At(due),
            expires_at: Some(at.parse().unwrap()),
            ..job()
        };
        let same = expiring("2030-01-01T00:00:00.000000900Z").check();
        assert_eq!(same.unwrap_err().field, "expires_at");
        let later = expiring("2030-01-01T00:00:00.000001Z").check();
        assert_eq!(later, Ok(()));
    }

    #[test]
    fn each_rule_names_its_field() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let long = serde_json::value::to_raw_value(&"x".repeat(ARGS_BYTES_MAX)).unwrap();
        let cases = [
            (
                NewJob {
                    args: long,
                    ..job()
                },
                "args",
            ),
            (
                NewJob {
                    priority: Some(4),
                    ..job()
                },
                "priority",
            ),
            (
                NewJob {
                    priority: Some(-1),
                    ..job()
                },
                "priority",
            ),
            (
                NewJob {
                    max_attempts: Some(0),
                    ..job()
                },
                "max_attempts",
            ),
            (
                NewJob {
                    dedup_key: Some(String::new()),
                    ..job()
                },
                "dedup_key",
            ),
            (
                NewJob {
                    dedup_key: Some("x".repeat(256)),
                    ..job()
                },
                "dedup_key",
            ),
            (
                NewJob {
                    dedup_key: Some("a\0b".into()),
                    ..job()
                },
                "dedup_key",
            ),
            (
                NewJob {
                    traceparent: Some("x".repeat(256)),
                    ..job()
                },
                "traceparent",
            ),
            (
                NewJob {
                    run_at: RunAt::At(at(0)),
                    ..job()
                },
                "run_at",
            ),
            (
                NewJob {
                    run_at: RunAt::At(at(9_000_000_000)),
                    ..job()
                },
                "run_at",
            ),
            (
                NewJob {
                    run_at: RunAt::After(Duration::MAX),
                    ..job()
                },
                "run_at",
            ),
            (
                NewJob {
                    expires_at: Some(at(1)),
                    ..job()
                },
                "expires_at",
            ),
            (
                NewJob {
                    run_at: RunAt::At(at(2_000_000_000)),
                    expires_at: Some(at(2_000_000_000)),
                    ..job()
                },
                "expires_at",
            ),
        ];
        for (job, field) in cases {
            assert_eq!(job.check().unwrap_err().field, field);
        }
    }
}
