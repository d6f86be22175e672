//! Bugs that a test of this crate plants, one at a time, to see that the simulator or a model finds them. In every other
//! build none is, and the questions cost nothing.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A permit that is given back wakes nobody where several wait.
    LostWakeUp,
    /// The permit of a batch that is spooled on request is given back twice.
    PermitTwice,
    /// A port takes the end of one sender's input for the end of all.
    EndTooEarly,
    /// The last bytes of a frame are not read.
    ShortRead,
    /// A node that leaves an input unread is no hazard.
    NoHazardMark,
    /// A step that fails keeps what was reserved for it.
    LeakOnError,
    /// Who begins to wait does not look once more whether it has to, nor who has sent whether anybody still takes it.
    NoSecondLook,
    /// An actor says that it has heard a wake-up only after the step that answers it.
    FlagLoweredLate,
    /// An addition that another thread has overtaken keeps what it paid.
    OvertakenPays,
    /// A task that ends leaves the request for its memory without an answer.
    RequestUnanswered,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in what runs on this thread, in place of the one before.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is planted.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether `bug` is planted: never.
#[cfg(not(test))]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}
