//! The keys of a log, one after the other: each endorses the next, in a leaf of the log.
//!
//! ```text
//! statement   = LP("attache/audit-key/1", store 16, epoch u32, key before 32, key after 32)
//! endorsement = Ed25519(key before, statement)                                     in the leaf `audit-key`, with all three
//! ```
//!
//! The leaf is durable before the key after signs anything. So whoever knows one key of a log follows it to the newest,
//! by endorsements, and back to the first, since the checkpoints of a key cover all leaves before it. Once a key has
//! signed a checkpoint, no key before it signs another.

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, CheckpointError, log_ids};
use crate::leaf::{Event, Leaf, Succession};
use crate::note::{NoteError, Signer, Verifier};

/// More successions than this are not followed: a key a day, for eleven years.
const MAX_KEYS: usize = 4096;

impl Succession {
    /// Says, as the key that has signed so far, which one signs next.
    ///
    /// # Errors
    /// [`NoteError::Signature`].
    pub fn endorse(
        store: &[u8; 16],
        before: &Signer,
        epoch: u32,
        after: [u8; 32],
    ) -> Result<Self, NoteError> {
        let key = *before.verifier().key();
        Ok(Self {
            epoch,
            before: key,
            after,
            endorsement: before.sign_statement(&statement(store, epoch, &key, &after))?,
        })
    }

    /// Whether the key before has said so of this store.
    fn is_endorsed(&self, store: &[u8; 16], before: &Verifier) -> bool {
        let statement = statement(store, self.epoch, &self.before, &self.after);
        before
            .check_statement(&statement, &self.endorsement)
            .is_ok()
    }
}

/// The keys that one log was signed with, ascending, and which of them is known to be the log's.
#[derive(Debug, Clone)]
pub struct LogKeys {
    keys: Vec<Verifier>,
    known: usize,
}

impl LogKeys {
    /// One key, and no other.
    #[must_use]
    pub fn one(key: Verifier) -> Self {
        Self {
            keys: vec![key],
            known: 0,
        }
    }

    /// Keys that are all known, ascending; nothing when there is none, or when they are named differently.
    #[must_use]
    pub fn all_known(keys: Vec<Verifier>) -> Option<Self> {
        let name = keys.first()?.name();
        let one_name = keys.iter().all(|key| key.name() == name);
        one_name.then_some(Self { keys, known: 0 })
    }

    /// The keys that the leaves of a log tell of, from the one that is known: those that it endorses, each in its turn, and
    /// those that endorsed it.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the key's name is no log's.
    pub fn follow(known: Verifier, told: &[Succession]) -> Result<Self, CheckpointError> {
        let (store, _) = log_ids(known.name()).ok_or(CheckpointError::Origin)?;
        let named = |key: [u8; 32]| Verifier::new(known.name(), key).ok();
        let endorsed = |it: &&Succession| {
            named(it.before).is_some_and(|before| it.is_endorsed(&store, &before))
        };
        let mut keys = vec![known.clone()];
        // To the first: only one key endorses another, since each is drawn for that.
        let by_after: HashMap<_, _> = told.iter().map(|it| (it.after, it)).collect();
        let mut at = *known.key();
        while let Some(it) = by_after.get(&at).filter(|it| endorsed(it))
            && keys.len() < MAX_KEYS
            && keys.iter().all(|key| *key.key() != it.before)
        {
            at = it.before;
            keys.extend(named(at));
        }
        keys.reverse();
        let place = keys.len() - 1;
        // To the newest: a key may have endorsed one that came to nothing, and then another.
        for it in told {
            let from_here = keys
                .get(place..)
                .is_some_and(|keys| keys.iter().any(|key| *key.key() == it.before));
            let is_new = keys.iter().all(|key| *key.key() != it.after);
            if from_here && is_new && keys.len() < MAX_KEYS && endorsed(&it) {
                keys.extend(named(it.after));
            }
        }
        Ok(Self { keys, known: place })
    }

    /// What a leaf's body tells of a succession, if it does.
    #[must_use]
    pub fn told_by(body: &[u8]) -> Option<Succession> {
        let leaf = Leaf::parse(body).ok()?;
        if let Event::Succession(told) = leaf.event {
            Some(told)
        } else {
            None
        }
    }

    /// The log's origin, as which every one of them is named.
    #[must_use]
    pub fn name(&self) -> &str {
        self.keys.first().map_or("", Verifier::name)
    }

    /// Whether this is the known key, or one that follows from it.
    #[must_use]
    pub fn vouch_for(&self, key: &Verifier) -> bool {
        let place = self.keys.iter().position(|it| it == key);
        place.is_some_and(|place| self.vouches(place))
    }

    /// Opens a checkpoint that one of them signed.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        self.open_from(0, note).map(|(checkpoint, _)| checkpoint)
    }

    /// Opens a checkpoint that one of them signed, from that place on; and says which.
    pub(crate) fn open_from(
        &self,
        first: usize,
        note: &str,
    ) -> Result<(Checkpoint, usize), CheckpointError> {
        for (place, key) in self.keys.iter().enumerate().skip(first) {
            match Checkpoint::open(note, key) {
                Err(CheckpointError::Note(NoteError::Unsigned)) => {}
                opened => return opened.map(|checkpoint| (checkpoint, place)),
            }
        }
        Err(CheckpointError::Note(NoteError::Unsigned))
    }

    pub(crate) fn at(&self, place: usize) -> Option<&Verifier> {
        self.keys.get(place)
    }

    /// Whether the key at that place vouches for the log: the known one, or one that follows from it.
    pub(crate) fn vouches(&self, place: usize) -> bool {
        place >= self.known
    }
}

fn statement(store: &[u8; 16], epoch: u32, before: &[u8; 32], after: &[u8; 32]) -> Vec<u8> {
    let epoch = epoch.to_be_bytes();
    let fields = [
        &b"attache/audit-key/1"[..],
        store.as_slice(),
        &epoch,
        before,
        after,
    ];
    let mut out = Vec::with_capacity(128);
    for field in fields {
        crate::leaf::put_field(&mut out, field);
    }
    out
}

#[cfg(test)]
mod tests;
