//! Passes over all rows, as a core without IO: what to do next, given what has happened.
//!
//! ```text
//! Look(table, after) ... -> the last table was empty -> rows were tagged: another pass
//!                                                    -> none were            -> Drop -> over
//! ```
//! It keeps nothing that the store has not. The keys before go only after a pass that met no row with a good tag of theirs: a
//! commit that was being made when the new key was taken up is found by it. A row that does not verify was looked at twice at
//! least by then. It keeps no key: whoever can write a file could have a key that is in wrong hands stay for ever by it.

use attache_envelope::Table;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Tag a page of a table's rows anew, those after this one.
    Look(Table, Option<Vec<u8>>),
    /// Drop the keys before.
    Drop,
    /// Nothing.
    Over,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// A page was looked at, and what it tagged is durable.
    Looked {
        /// How many rows it was.
        looked: u64,
        /// How many were tagged anew.
        tagged: u64,
        /// Its last row.
        last: Vec<u8>,
    },
    /// There was no row after the last.
    TableEnded,
    /// There is another active key, or another keyring, than what the drop stood on.
    Conflict,
    /// There are no keys before.
    Dropped,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pass {
    state: State,
    looked: u64,
    tagged: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Looking {
        table: usize,
        after: Option<Vec<u8>>,
    },
    Dropping,
    Over,
}

impl Pass {
    /// The first pass, from the first row on.
    pub(super) const fn new() -> Self {
        Self {
            state: State::Looking {
                table: 0,
                after: None,
            },
            looked: 0,
            tagged: 0,
        }
    }

    /// What is to be done next.
    pub(super) fn step(&self) -> Step {
        match &self.state {
            State::Looking { table, after } => match tables().nth(*table) {
                Some(table) => Step::Look(table, after.clone()),
                None => Step::Drop,
            },
            State::Dropping => Step::Drop,
            State::Over => Step::Over,
        }
    }

    /// How many rows this pass has looked at.
    pub(super) const fn looked(&self) -> u64 {
        self.looked
    }

    /// Takes in what has happened. What does not belong to the step changes nothing.
    pub(super) fn happened(&mut self, what: Happened) {
        match (&mut self.state, what) {
            (_, Happened::Dropped) => self.state = State::Over,
            (
                State::Looking { after, .. },
                Happened::Looked {
                    looked,
                    tagged,
                    last,
                },
            ) => {
                *after = Some(last);
                self.looked = self.looked.saturating_add(looked);
                self.tagged = self.tagged.saturating_add(tagged);
            }
            (State::Looking { table, after }, Happened::TableEnded) => {
                *table += 1;
                *after = None;
                if *table == tables().count() {
                    self.end();
                }
            }
            (State::Dropping, Happened::Conflict) => *self = Self::new(),
            (State::Looking { .. } | State::Dropping | State::Over, _) => {}
        }
    }

    fn end(&mut self) {
        if self.tagged > 0 {
            *self = Self::new();
        } else {
            self.state = State::Dropping;
        }
    }
}

/// The tables whose rows have tags.
fn tables() -> impl Iterator<Item = Table> {
    let all = Table::ALL.iter().copied();
    all.filter(|table| table.is_authenticated())
}

#[cfg(test)]
mod tests;
