//! Re-wrapping one key, as a core without IO: what to do next, given what has happened.
//!
//! ```text
//! Count -> Rewrap(after) ... -> the page was empty -> Rewrap(from the first) ... -> there is none -> Retire -> over
//! ```
//! It keeps nothing that the store has not: after a crash a new job begins with counting and finds the rest. A pass that
//! got nothing done but met values that cannot be read waits, since only somebody who looks can help.

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Count what the key still wraps.
    Count,
    /// Wrap again a page of its values, those of the index after the row of this key.
    Rewrap {
        /// None: from the first.
        after: Option<Vec<u8>>,
    },
    /// Retire the key, if the index has none of it.
    Retire,
    /// Wait before another pass: what is left cannot be read.
    Wait,
    /// Nothing.
    Over,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// It was counted.
    Counted {
        /// How many values the key wraps.
        left: u64,
        /// How many it wrapped at the first count.
        of: u64,
    },
    /// A page was wrapped again and is durable.
    Rewrapped {
        /// How many values of it were.
        values: u64,
        /// How many cannot be.
        unreadable: u64,
        /// How many rows of the index were of none of the key's values, and are gone.
        strays: u64,
        /// The key of the page's last row.
        last: Vec<u8>,
    },
    /// There was no row after the last.
    PageEmpty,
    /// Something that the step stands on has changed, or the index was not empty: nothing was written.
    Conflict,
    /// The time to wait is over.
    Waited,
    /// The key is retired, or was already.
    Retired,
}

/// How far one key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    state: State,
    left: u64,
    of: u64,
    /// Values of the pass that cannot be wrapped again.
    unreadable: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Counting,
    Rewrapping {
        after: Option<Vec<u8>>,
        /// Whether this pass has got anything done.
        moved: bool,
    },
    Retiring,
    Waiting,
    Over,
}

const NEW_PASS: State = State::Rewrapping {
    after: None,
    moved: false,
};

impl Job {
    /// A job of which nothing is known.
    pub(super) const fn new() -> Self {
        Self {
            state: State::Counting,
            left: 0,
            of: 0,
            unreadable: 0,
        }
    }

    /// What is to be done next.
    pub(super) fn step(&self) -> Step {
        match &self.state {
            State::Counting => Step::Count,
            State::Rewrapping { after, .. } => Step::Rewrap {
                after: after.clone(),
            },
            State::Retiring => Step::Retire,
            State::Waiting => Step::Wait,
            State::Over => Step::Over,
        }
    }

    /// How many values are wrapped again, of how many.
    pub(super) const fn done(&self) -> (u64, u64) {
        (self.of.saturating_sub(self.left), self.of)
    }

    /// How many values of this pass, or of the one before, cannot be wrapped again.
    pub(super) const fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Takes in what has happened. What does not belong to the step changes nothing.
    pub(super) fn happened(&mut self, what: Happened) {
        match (&self.state, what) {
            (_, Happened::Retired) => self.state = State::Over,
            (State::Counting, Happened::Counted { left, of }) => {
                (self.left, self.of) = (left, of.max(left));
                self.begin_pass();
            }
            (
                State::Rewrapping { moved, .. },
                Happened::Rewrapped {
                    values,
                    unreadable,
                    strays,
                    last,
                },
            ) => {
                // Strays alone are no progress: where the engine did not take them out, they would be found for ever.
                let moved = *moved || values > 0;
                self.left = self.left.saturating_sub(values.saturating_add(strays));
                self.of = self.of.saturating_sub(strays);
                self.unreadable = self.unreadable.saturating_add(unreadable);
                self.state = State::Rewrapping {
                    after: Some(last),
                    moved,
                };
            }
            (State::Rewrapping { after, moved }, Happened::PageEmpty) => match after {
                None => self.state = State::Retiring,
                // What was passed over by a page that conflicted, or could not be read, is looked for once more.
                Some(_) if *moved => self.begin_pass(),
                Some(_) => self.state = State::Waiting,
            },
            (State::Rewrapping { .. } | State::Retiring, Happened::Conflict) => self.begin_pass(),
            (State::Waiting, Happened::Waited) => self.begin_pass(),
            (State::Counting | State::Rewrapping { .. }, _)
            | (State::Retiring | State::Waiting | State::Over, _) => {}
        }
    }

    fn begin_pass(&mut self) {
        self.unreadable = 0;
        self.state = NEW_PASS;
    }
}

#[cfg(test)]
mod tests;
