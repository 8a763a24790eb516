//! Mistakes that somebody could make in the core, one at a time: what the judge is worth is how
//! many of them it finds.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The delivery is settled before the outcome is committed.
    AckBeforeCommit,
    /// A message counts as published when it is written.
    NoConfirmWait,
    /// A settle meant for a lost channel is sent over the new one, under the same tag.
    StaleAck,
    /// The gate lets everybody start, under whatever fence and state.
    GateOff,
    /// Jobs are claimed a second before they are due.
    Early,
    /// The index of dedup keys is missing: two submits of one tick are two jobs.
    DoubleTick,
    /// A message carries the args of another tenant's job.
    WrongTenant,
    /// Outcomes name the job, and neither the fence nor the stage.
    OutcomeUnfenced,
    /// What is unclear is tried again, whatever the kind says.
    HoldRetried,
    /// A failed job that is to be tried again is deleted.
    FailedDropped,
    /// Starting a job does not count as an attempt.
    AttemptNotCharged,
    /// Neither the claim nor the gate looks at `expires_at`.
    RunsAfterExpiry,
    /// The claim does not count what is in the pipe.
    WindowIgnored,
    /// A claim keeps the old fence.
    FenceKept,
    /// The rescuer ends runs of workers that nobody called lost.
    HastyRescuer,
    /// The watcher calls a process lost at the first look that finds no new heartbeat.
    HastyWatcher,
    /// Failed jobs whose dead letter is lost are left alone.
    NoSweep,
    /// Claims that came to nothing are left alone.
    NoRescue,
    /// A batch of outcomes is tried to be written once.
    FinishedOnce,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::AckBeforeCommit,
        Self::NoConfirmWait,
        Self::StaleAck,
        Self::GateOff,
        Self::Early,
        Self::DoubleTick,
        Self::WrongTenant,
        Self::OutcomeUnfenced,
        Self::HoldRetried,
        Self::FailedDropped,
        Self::AttemptNotCharged,
        Self::RunsAfterExpiry,
        Self::WindowIgnored,
        Self::FenceKept,
        Self::HastyRescuer,
        Self::HastyWatcher,
        Self::NoSweep,
        Self::NoRescue,
        Self::FinishedOnce,
    ];
}
