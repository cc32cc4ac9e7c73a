//! Opening a slot of a store that nothing of is believed yet: by what the settings name, one after the other.
//!
//! Each way has its secret from somewhere else; a slot of its kind that the secret fits gives the store root key. The rows
//! are hostile: how many are tried and what each may cost is bounded, and a row that does not parse is passed over, since
//! another slot may still open.

use std::fmt;
use std::path::{Path, PathBuf};

use attache_arena::{Arena, ArenaError, Key};
use attache_envelope::id::{SlotId, StoreId};
use attache_envelope::key::SlotSecret;
use attache_envelope::name::SlotName;
use attache_envelope::row::UnverifiedRow;
use attache_envelope::sign::VerifyingKey;
use attache_envelope::slot::passphrase::of_file;
use attache_envelope::slot::{OpenedSlot, Slot, SlotSource};
use attache_envelope::{EnvelopeError, Table};
use attache_mtls::private_file::read_private;
use zeroize::Zeroizing;

use super::error::UnlockError;
use super::slot_file;
use super::slots::MAX_SLOTS;
use crate::causes::with_causes;
use crate::kms::{KmsError, KmsPlugin};
use crate::store::{Entry, Store};

/// One way to open a store, as the settings name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opener {
    /// A key file.
    KeyFile(PathBuf),
    /// A file with a passphrase.
    Passphrase(PathBuf),
    /// A KMS plugin.
    Kms(KmsPlugin),
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "the key file {}", path.display()),
            Self::Passphrase(path) => write!(f, "the passphrase in {}", path.display()),
            Self::Kms(plugin) => write!(f, "the KMS plugin at {}", plugin.socket().display()),
        }
    }
}

/// By what a store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedBy {
    /// The slot.
    pub slot: SlotId,
    /// Its name.
    pub name: SlotName,
    /// How its secret was had, for people.
    pub how: String,
}

/// A slot that opened, and what it proves.
pub(super) struct Opened {
    pub(super) srk: Key,
    pub(super) rekey: VerifyingKey,
    pub(super) by: OpenedBy,
}

/// The slots of a store that nothing of is believed yet, by name. A row that does not parse is passed over.
///
/// # Errors
/// [`UnlockError::Missing`] when none is left; [`UnlockError::Store`].
pub async fn unverified_slots<S: Store>(store: &S) -> Result<Vec<Slot>, UnlockError> {
    let rows = store.scan(Table::Slot, b"", None, MAX_SLOTS).await?;
    let parsed = |(_, stored): &Entry| {
        let row = UnverifiedRow::parse(stored).ok()?;
        Slot::decode(row.unverified_body()).ok()
    };
    let mut slots: Vec<Slot> = rows.iter().filter_map(parsed).collect();
    slots.sort_unstable_by(|a, b| a.about.name.cmp(&b.about.name));
    if slots.is_empty() {
        return Err(UnlockError::Missing { record: "slot" });
    }
    Ok(slots)
}

/// Opens the store root key by the first way that opens a slot.
pub(super) async fn open_slot<S: Store>(
    arena: &Arena,
    store: &S,
    openers: &[Opener],
) -> Result<Opened, UnlockError> {
    let slots = unverified_slots(store).await?;
    let there = there(&slots);
    let mut failures = Vec::new();
    for opener in openers {
        let tried = match opener {
            Opener::KeyFile(path) => by_key_file(arena, store.id(), &slots, path),
            Opener::Passphrase(path) => by_passphrase(arena, store.id(), &slots, path),
            Opener::Kms(plugin) => by_kms(arena, store.id(), &slots, plugin).await,
        };
        match tried {
            Ok(mut opened) => {
                opened.by.how = opener.to_string();
                tracing::info!(by = %opener, slot = %opened.by.name, slots = there, "the store is open");
                return Ok(opened);
            }
            Err(error) => failures.push((opener, error)),
        }
    }
    match failures.len() {
        1 => failures
            .pop()
            .map_or(Err(UnlockError::NoOpener), |(_, error)| Err(error)),
        0 => Err(UnlockError::NoOpener),
        _ => {
            let why = |(opener, error): &(&Opener, UnlockError)| {
                format!("{opener}: {}", with_causes(error))
            };
            let tried: Vec<_> = failures.iter().map(why).collect();
            let tried = tried.join("; ");
            Err(UnlockError::NoneOpens { tried, there })
        }
    }
}

/// Opens the store root key by the secret of one slot, which was given.
pub(super) fn open_given(
    arena: &Arena,
    store: StoreId,
    slot: &Slot,
    secret: &Key,
    how: String,
) -> Result<Opened, UnlockError> {
    let mut opened = with_secret(arena, store, slot, secret)?.ok_or(UnlockError::WrongSecret)?;
    opened.by.how = how;
    Ok(opened)
}

/// The slots that a store has by its own word, for people.
pub fn there(slots: &[Slot]) -> String {
    let named = |slot: &Slot| format!("{} ({})", slot.about.name, slot.identity.kind.name());
    let named: Vec<_> = slots.iter().map(named).collect();
    named.join(", ")
}

type Tried = Result<Opened, UnlockError>;

fn by_key_file(arena: &Arena, store: StoreId, slots: &[Slot], path: &Path) -> Tried {
    let secret = slot_file::read(path, arena)?;
    for slot in slots {
        if slot.identity.source() == Ok(SlotSource::KeyFile)
            && let Some(opened) = with_secret(arena, store, slot, &secret)?
        {
            return Ok(opened);
        }
    }
    Err(UnlockError::WrongSlotFile {
        path: path.display().to_string(),
    })
}

fn by_passphrase(arena: &Arena, store: StoreId, slots: &[Slot], path: &Path) -> Tried {
    let shown = || path.display().to_string();
    let text: Zeroizing<Vec<u8>> =
        read_private(path).map_err(|source| UnlockError::PassphraseFile { source })?;
    let mut derived = false;
    for slot in slots {
        let Ok(SlotSource::Passphrase(parameters)) = slot.identity.source() else {
            continue;
        };
        derived = true;
        let secret = arena.key_with(|cell| {
            parameters
                .derive(of_file(&text), cell)
                .map_err(|source| UnlockError::Record {
                    record: "slot",
                    source,
                })
        })?;
        if let Some(opened) = with_secret(arena, store, slot, &secret)? {
            return Ok(opened);
        }
    }
    Err(if derived {
        UnlockError::WrongPassphrase { path: shown() }
    } else {
        UnlockError::NoPassphraseSlot { path: shown() }
    })
}

async fn by_kms(arena: &Arena, store: StoreId, slots: &[Slot], plugin: &KmsPlugin) -> Tried {
    let mut failed = None;
    for slot in slots {
        let Ok(SlotSource::Kms(kept)) = slot.identity.source() else {
            continue;
        };
        let decrypted = plugin.decrypt(arena, (store, slot.identity.slot), &kept);
        match decrypted.await {
            Ok(secret) => {
                if let Some(opened) = with_secret(arena, store, slot, &secret)? {
                    return Ok(opened);
                }
            }
            // A plugin that does not answer does not answer for the next slot either.
            Err(error @ KmsError::Away { .. }) => return Err(error.into()),
            Err(error) => failed = Some(error),
        }
    }
    let socket = plugin.socket().display().to_string();
    Err(failed.map_or(UnlockError::NoKmsSlot { socket }, UnlockError::from))
}

/// The SRK of one slot, when the secret fits it.
fn with_secret(
    arena: &Arena,
    store: StoreId,
    slot: &Slot,
    secret: &Key,
) -> Result<Option<Opened>, ArenaError> {
    let mut opened = None;
    let srk = arena.key_with(|cell| -> Result<(), Trial> {
        opened = Some(slot.open(store, SlotSecret::new(secret.expose()), cell)?);
        Ok(())
    });
    match (srk, opened) {
        (Ok(srk), Some(OpenedSlot { rekey, .. })) => {
            let by = OpenedBy {
                slot: slot.identity.slot,
                name: slot.about.name.clone(),
                how: String::new(),
            };
            Ok(Some(Opened { srk, rekey, by }))
        }
        (Err(Trial::Arena(error)), _) => Err(error),
        (Err(Trial::Refused) | Ok(_), _) => Ok(None),
    }
}

/// Why one slot did not open.
enum Trial {
    Arena(ArenaError),
    Refused,
}

impl From<ArenaError> for Trial {
    fn from(error: ArenaError) -> Self {
        Self::Arena(error)
    }
}

impl From<EnvelopeError> for Trial {
    fn from(_: EnvelopeError) -> Self {
        Self::Refused
    }
}

#[cfg(test)]
mod tests {
    use attache_envelope::SystemRandom;
    use attache_envelope::slot::passphrase::PassphraseParameters;
    use attache_mtls::private_file::{PrivateFileError, create_private_once};

    use super::super::{Keys, NewSlot, SlotSet};
    use super::*;
    use crate::store::fixture::Fixture;

    const WORDS: &[u8] = b"correct horse battery staple";

    fn file(fixture: &Fixture, name: &str, text: &[u8]) -> PathBuf {
        let path = fixture.slot_path().with_file_name(name);
        create_private_once(&path, text).unwrap();
        path
    }

    /// A store with a passphrase slot beside its first, closed.
    async fn with_passphrase_slot() -> Fixture {
        let fixture = Fixture::new().await;
        let (ledger, keys) = fixture.open().await;
        // As new ones are, but cheap.
        let salt = PassphraseParameters::draw(&SystemRandom).unwrap().encode();
        let cheap = [&[0, 0, 0, 64, 0, 0, 0, 1, 0, 0, 0, 1][..], &salt[12..]].concat();
        let parameters = PassphraseParameters::decode(&cheap).unwrap();
        let mut secret = [0; 32];
        parameters.derive(WORDS, &mut secret).unwrap();
        let new = NewSlot {
            slot: SlotId::from_bytes([7; 16]),
            name: "board".parse().unwrap(),
            source: SlotSource::Passphrase(parameters),
            secret: SlotSecret::new(&secret),
            now_ms: 1,
        };
        let set = SlotSet::read(&ledger).await.unwrap();
        let added = keys.add_slot(&set, new).unwrap();
        ledger.apply(added.change).await.unwrap();
        ledger.close().await;
        fixture
    }

    async fn open(fixture: &Fixture, openers: &[Opener]) -> Result<SlotId, UnlockError> {
        let store = crate::store::RedbStore::open(&fixture.store_path()).unwrap();
        let keys = Keys::open_by(&fixture.arena, &store, openers).await?;
        Ok(keys.opened_by())
    }

    #[tokio::test]
    async fn the_first_way_that_opens_a_slot_is_taken_and_the_others_are_tried_before() {
        let fixture = with_passphrase_slot().await;
        let board = SlotId::from_bytes([7; 16]);
        let words = file(&fixture, "words", &[WORDS, b"\n"].concat());
        let words = Opener::Passphrase(words);
        let key_file = Opener::KeyFile(fixture.slot_path());
        let gone = Opener::KeyFile(fixture.slot_path().with_file_name("gone"));
        let opened = open(&fixture, std::slice::from_ref(&words)).await;
        assert_eq!(opened.unwrap(), board);
        let opened = open(&fixture, &[gone, words.clone()]).await;
        assert_eq!(opened.unwrap(), board);
        let opened = open(&fixture, &[key_file, words]).await;
        assert_ne!(opened.unwrap(), board);
    }

    #[tokio::test]
    async fn each_way_that_does_not_open_says_why_and_the_slots_are_named() {
        let fixture = with_passphrase_slot().await;
        let wrong = Opener::Passphrase(file(&fixture, "wrong", b"battery horse correct staple"));
        let one = open(&fixture, std::slice::from_ref(&wrong)).await;
        assert!(matches!(one, Err(UnlockError::WrongPassphrase { .. })));
        let gone = Opener::KeyFile(fixture.slot_path().with_file_name("gone"));
        let both = open(&fixture, &[gone, wrong]).await.unwrap_err();
        let told = both.to_string();
        for part in [
            "key-file (key-file)",
            "board (passphrase)",
            "gone",
            "is another one",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("battery"), "{told}");
        let none = open(&fixture, &[]).await;
        assert!(matches!(none, Err(UnlockError::NoOpener)));
    }

    #[tokio::test]
    async fn a_passphrase_is_read_from_a_private_file_and_only_for_a_slot_of_its_kind() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt;

        let fixture = Fixture::new().await;
        let path = file(&fixture, "words", WORDS);
        let words = [Opener::Passphrase(path.clone())];
        let none = open(&fixture, &words).await;
        assert!(matches!(none, Err(UnlockError::NoPassphraseSlot { .. })));
        set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let shown = open(&fixture, &words).await;
        assert!(matches!(
            shown,
            Err(UnlockError::PassphraseFile {
                source: PrivateFileError::Mode { .. }
            })
        ));
    }
}
