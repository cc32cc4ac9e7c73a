//! Removing one keyspace, as a core without IO: what to do next, given what has happened.
//!
//! ```text
//! Remove(after) ... -> nothing more was found -> End -> over
//!                      something stayed: once more from the first, as long as that gets something done; else Wait
//! ```
//! It keeps nothing that the store has not: after a crash a new job begins with the first row and finds the rest.

use crate::vault::Passed;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Remove a page of what is left, after this.
    Remove(Option<Passed>),
    /// Say that nothing is left, if nothing is.
    End,
    /// Wait before another pass: what is left cannot be read.
    Wait,
    /// Nothing.
    Over,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// A page is durable.
    Removed {
        /// Values of it.
        values: u64,
        /// Rows of it.
        rows: u64,
        /// How many stay.
        unreadable: u64,
        /// How far it went; none when there was nothing more.
        passed: Option<Passed>,
    },
    /// Something that the step stands on has changed, or something was left after all: nothing was written.
    Conflict,
    /// The time to wait is over.
    Waited,
    /// Nothing is left, or was to be removed.
    Ended,
}

/// How far one keyspace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    state: State,
    values: u64,
    unreadable: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Removing {
        after: Option<Passed>,
        /// Whether this pass has got anything done.
        moved: bool,
    },
    Ending,
    Waiting,
    Over,
}

const NEW_PASS: State = State::Removing {
    after: None,
    moved: false,
};

impl Job {
    /// A job of which nothing is known.
    pub(super) const fn new() -> Self {
        Self {
            state: NEW_PASS,
            values: 0,
            unreadable: 0,
        }
    }

    /// What is to be done next.
    pub(super) fn step(&self) -> Step {
        match &self.state {
            State::Removing { after, .. } => Step::Remove(after.clone()),
            State::Ending => Step::End,
            State::Waiting => Step::Wait,
            State::Over => Step::Over,
        }
    }

    /// How many values were removed by this job.
    pub(super) const fn values(&self) -> u64 {
        self.values
    }

    /// How many rows of this pass, or of the one before, stay.
    pub(super) const fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Takes in what has happened. What does not belong to the step changes nothing.
    pub(super) fn happened(&mut self, what: Happened) {
        match (&self.state, what) {
            (_, Happened::Ended) => self.state = State::Over,
            (
                State::Removing { moved, .. },
                Happened::Removed {
                    values,
                    rows,
                    unreadable,
                    passed,
                },
            ) => {
                let moved = *moved || rows > 0 || values > 0;
                self.values = self.values.saturating_add(values);
                self.unreadable = self.unreadable.saturating_add(unreadable);
                self.state = match passed {
                    Some(_) => State::Removing {
                        after: passed,
                        moved,
                    },
                    None if self.unreadable == 0 => State::Ending,
                    // What was passed over by a page that conflicted, or led to a row that is gone now, is looked for again.
                    None if moved => {
                        self.begin_pass();
                        return;
                    }
                    None => State::Waiting,
                };
            }
            (State::Removing { .. } | State::Ending, Happened::Conflict)
            | (State::Waiting, Happened::Waited) => self.begin_pass(),
            (State::Removing { .. } | State::Ending | State::Waiting | State::Over, _) => {}
        }
    }

    fn begin_pass(&mut self) {
        self.unreadable = 0;
        self.state = NEW_PASS;
    }
}

#[cfg(test)]
mod tests;
