//! The keys of a log, one after the other: each endorses the next, in a leaf of the log.
//!
//! ```text
//! statement   = LP("attache/audit-key/1", store 16, epoch u32, key before 32, key after 32)
//! endorsement = Ed25519(key before, statement)                                     in the leaf `audit-key`, with all three
//! ```
//!
//! The leaf is durable before the key after signs anything. So whoever knows one key of a log follows it to the newest,
//! by endorsements, and back to the first, since the checkpoints of a key cover all leaves before it. A checkpoint is
//! signed by the key of the one before it, or by one that this key endorsed: whoever has an older key can neither sign
//! one more nor bring in another key behind it.

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, CheckpointError, log_ids};
use crate::leaf::{Event, Leaf, Succession};
use crate::note::{NoteError, Signer, Verifier};
use crate::segment::{Record, Records};
use crate::verify::next_checkpoint;

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

/// The keys that one log was signed with, each behind the one that endorsed it, and which of them is known to be the log's.
#[derive(Debug, Clone)]
pub struct LogKeys {
    keys: Vec<LogKey>,
    known: usize,
}

#[derive(Debug, Clone)]
struct LogKey {
    verifier: Verifier,
    /// The place of the key that endorsed it, which is before its own.
    before: Option<usize>,
}

impl LogKeys {
    /// One key, and no other.
    #[must_use]
    pub fn one(key: Verifier) -> Self {
        Self {
            keys: vec![LogKey {
                verifier: key,
                before: None,
            }],
            known: 0,
        }
    }

    /// Keys that are all known, ascending; nothing when there is none, or when they are named differently.
    #[must_use]
    pub fn all_known(keys: Vec<Verifier>) -> Option<Self> {
        let name = keys.first()?.name();
        let one_name = keys.iter().all(|key| key.name() == name);
        one_name.then(|| Self {
            keys: one_after_another(keys.into_iter()),
            known: 0,
        })
    }

    /// The keys that the leaves of a log tell of, in their order, from the one that is known: those that it endorses, each in
    /// its turn, and those that endorsed it.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] when the key's name is no log's.
    pub fn follow(known: Verifier, told: &[Succession]) -> Result<Self, CheckpointError> {
        let name = known.name().to_owned();
        let (store, _) = log_ids(&name).ok_or(CheckpointError::Origin)?;
        let named = |key: [u8; 32]| Verifier::new(&name, key).ok();
        let endorsed = |it: &&Succession| {
            named(it.before).is_some_and(|before| it.is_endorsed(&store, &before))
        };
        let mut of_after: HashMap<_, Vec<_>> = HashMap::new();
        for it in told {
            of_after.entry(it.after).or_default().push(it);
        }
        // To the first: only one key endorses another, since each is drawn for that.
        let mut back = vec![known];
        while let Some(at) = back.last().map(|key| *key.key())
            && let Some(it) = of_after
                .get(&at)
                .and_then(|all| all.iter().copied().find(endorsed))
            && back.len() < MAX_KEYS
            && back.iter().all(|key| *key.key() != it.before)
        {
            back.extend(named(it.before));
        }
        let known = back.len() - 1;
        let mut keys = Self {
            keys: one_after_another(back.into_iter().rev()),
            known,
        };
        // To the newest: a key may have endorsed one that came to nothing, and then another.
        for it in told {
            let Some(before) = keys.place(&it.before) else {
                continue;
            };
            let is_new = keys.place(&it.after).is_none() && keys.keys.len() < MAX_KEYS;
            if is_new && keys.vouches(before) && endorsed(&it) {
                keys.keys.extend(named(it.after).map(|verifier| LogKey {
                    verifier,
                    before: Some(before),
                }));
            }
        }
        Ok(keys)
    }

    /// What a segment tells of successions; where it is damaged, read on at the next checkpoint.
    #[must_use]
    pub fn told_in(segment: &[u8], name: &str) -> Vec<Succession> {
        let mut told = Vec::new();
        let mut records = Records::new(segment);
        while let Some((offset, record)) = records.next() {
            match record {
                Ok(Record::Leaf(body)) => told.extend(Self::told_by(body)),
                Ok(Record::Checkpoint(_)) => {}
                Err(_) => match next_checkpoint(segment, offset + 1, name) {
                    Some(next) => records = Records::from_offset(segment, next),
                    None => break,
                },
            }
        }
        told
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
        self.keys.first().map_or("", |key| key.verifier.name())
    }

    /// Whether this is the known key, or one that follows from it.
    #[must_use]
    pub fn vouch_for(&self, key: &Verifier) -> bool {
        let place = self.place(key.key());
        key.name() == self.name() && place.is_some_and(|place| self.vouches(place))
    }

    /// Opens a checkpoint that one of them signed.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        self.open_after(None, note)
            .map(|(checkpoint, _)| checkpoint)
    }

    /// Whether a log whose last checkpoint this key signed may go on from that checkpoint: the key that signed that is the
    /// same, or `last` follows from it.
    #[must_use]
    pub fn go_on_from(&self, note: &str, last: &Verifier) -> bool {
        let signed_by = self.open_after(None, note);
        match (signed_by, self.place(last.key())) {
            (Ok((_, from)), Some(last)) => self.follows(last, from),
            (Ok(_) | Err(_), _) => false,
        }
    }

    /// Opens a checkpoint, and says which of them signed it: the one that signed the last, or one that it endorsed.
    pub(crate) fn open_after(
        &self,
        last: Option<usize>,
        note: &str,
    ) -> Result<(Checkpoint, usize), CheckpointError> {
        for (place, key) in self.keys.iter().enumerate() {
            if last.is_some_and(|last| place != last && key.before != Some(last)) {
                continue;
            }
            match Checkpoint::open(note, &key.verifier) {
                Err(CheckpointError::Note(NoteError::Unsigned)) => {}
                opened => return opened.map(|checkpoint| (checkpoint, place)),
            }
        }
        Err(CheckpointError::Note(NoteError::Unsigned))
    }

    pub(crate) fn at(&self, place: usize) -> Option<&Verifier> {
        self.keys.get(place).map(|key| &key.verifier)
    }

    /// Whether the key at that place vouches for the log: the known one, or one that follows from it.
    pub(crate) fn vouches(&self, place: usize) -> bool {
        self.follows(place, self.known)
    }

    /// Whether they are one key, or the one follows from the other, by one endorsement or several.
    fn follows(&self, place: usize, from: usize) -> bool {
        let mut at = Some(place);
        while let Some(place) = at.filter(|place| *place > from) {
            at = self.keys.get(place).and_then(|key| key.before);
        }
        at == Some(from)
    }

    fn place(&self, key: &[u8; 32]) -> Option<usize> {
        self.keys.iter().position(|it| it.verifier.key() == key)
    }
}

fn one_after_another(keys: impl Iterator<Item = Verifier>) -> Vec<LogKey> {
    let keys = keys.enumerate().map(|(place, verifier)| LogKey {
        verifier,
        before: place.checked_sub(1),
    });
    keys.collect()
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
