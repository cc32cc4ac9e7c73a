//! Making and opening the keyring.
//!
//! ```text
//! slot file -> slot secret -> (blob) slot's own key -> (seal, signed by rekey) SRK -> keyring record -> arena
//! ```
//!
//! The rows are hostile until the keyring is open: the slot's blob says who may have sealed the SRK, and the keyring
//! must hold that same signer. Their row MACs are verified by the ledger, which opens next.

use std::path::Path;
use std::sync::Arc;

use attache_arena::{Arena, Key, LockedBuf};
use attache_envelope::id::{KeyId, SlotId, StoreId};
use attache_envelope::key::{DenialKey, SigningSeed, SlotSecret, Srk};
use attache_envelope::keyring::{
    FreshSrk, KeyState, KeyringEntry, Purpose, SealedKeyring, read_record, record_bytes,
    write_record,
};
use attache_envelope::row::UnverifiedRow;
use attache_envelope::slot::{Slot, SlotAbout, SlotIdentity};
use attache_envelope::{EnvelopeError, SystemRandom, Table};
use attache_translog::{CheckpointError, NoteError, Signer, Verifier, anchor_origin};
use jiff::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::error::{CreateError, KeysError, UnlockError};
use super::opening::{Opened, OpenedBy, Opener, open_given, open_slot};
use super::ring::{Changing, Ring};
use super::slot_file;
use crate::store::{Change, MakeSigner, RowCodec, Store, StoreError};

/// The key of the keyring's row in the meta table.
pub(super) const KEYRING_ROW: &[u8] = b"keyring";

/// What the slot is called that init makes.
const FIRST_SLOT: &str = "key-file";

/// The opened keyring of one store.
pub struct Keys {
    store: StoreId,
    number: u64,
    opened_by: OpenedBy,
    arena: Arena,
    ring: Arc<Ring>,
    /// Held by whoever changes the keyring, from the reading of it until what was committed is here.
    changing: Arc<Mutex<()>>,
    codec: Arc<RowCodec>,
}

impl Keys {
    /// Makes the first keyring of a store and its key-file slot, and answers the rows of both.
    ///
    /// The slot file is made first, 0400, and must not exist.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create(
        arena: &Arena,
        store: StoreId,
        slot_file: &Path,
    ) -> Result<(Self, Change), CreateError> {
        let secret = arena.random_key().map_err(KeysError::from)?;
        slot_file::create(slot_file, &secret).map_err(|source| CreateError::SlotFile {
            path: slot_file.display().to_string(),
            source,
        })?;
        Ok(Self::draw(arena, store, &secret)?)
    }

    /// As [`Keys::create`], under a slot file that is there: as a Secret is mounted, made by whoever made that.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create_under(
        arena: &Arena,
        store: StoreId,
        slot_file: &Path,
    ) -> Result<(Self, Change), CreateError> {
        let secret = slot_file::read(slot_file, arena)?;
        Ok(Self::draw(arena, store, &secret)?)
    }

    /// Opens the keyring with the secret in the slot file.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub async fn open<S: Store>(
        arena: &Arena,
        store: &S,
        slot_file: &Path,
    ) -> Result<Self, UnlockError> {
        Self::open_by(arena, store, &[Opener::KeyFile(slot_file.to_owned())]).await
    }

    /// Opens the keyring by the first of these that opens a slot.
    ///
    /// # Errors
    /// [`UnlockError`]: why the one did not open, or [`UnlockError::NoneOpens`] with why each did not.
    pub async fn open_by<S: Store>(
        arena: &Arena,
        store: &S,
        openers: &[Opener],
    ) -> Result<Self, UnlockError> {
        let opened = open_slot(arena, store, openers).await?;
        Self::under(arena, store, opened).await
    }

    /// Opens the keyring with the secret of one of its slots, which was given as `how` says.
    ///
    /// # Errors
    /// [`UnlockError::WrongSecret`] when it is not what opens the slot.
    pub async fn open_with<S: Store>(
        arena: &Arena,
        store: &S,
        slot: &Slot,
        secret: &Key,
        how: String,
    ) -> Result<Self, UnlockError> {
        let opened = open_given(arena, store.id(), slot, secret, how)?;
        Self::under(arena, store, opened).await
    }

    /// With more of how it was opened, for the record.
    #[must_use]
    pub fn also_told(mut self, more: &str) -> Self {
        self.opened_by.how = format!("{}, {more}", self.opened_by.how);
        self
    }

    async fn under<S: Store>(
        arena: &Arena,
        store: &S,
        Opened { srk, rekey, by }: Opened,
    ) -> Result<Self, UnlockError> {
        let sealed = read_keyring(store).await?;
        // The number is bound to the key: a keyring of another number than the seal's does not open.
        let mut record = LockedBuf::new(sealed.record_bytes())?;
        sealed
            .open(Srk::new(srk.expose()), store.id(), record.as_mut_slice())
            .map_err(|_| UnlockError::Keyring)?;
        drop(srk);
        let entries = read_record(record.as_slice()).map_err(|source| UnlockError::Record {
            record: "keyring",
            source,
        })?;
        let ring = Ring::load(arena, &entries)?.ok_or(UnlockError::Keyring)?;
        let holds = SigningSeed::new(ring.rekey.active().key.expose()).verifying_key();
        if holds.ok() != Some(rekey) {
            return Err(UnlockError::Keyring);
        }
        Ok(Self::assemble(arena, store.id(), sealed.number(), by, ring))
    }

    /// The store that the keys are of.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.store
    }

    /// The number of the keyring that was opened: a change of it since then has left its keys what they are, and shows in
    /// [`SlotSet`](super::SlotSet).
    #[must_use]
    pub fn keyring_number(&self) -> u64 {
        self.number
    }

    /// The slot that this process was opened by.
    #[must_use]
    pub fn opened_by(&self) -> SlotId {
        self.opened_by.slot
    }

    /// That slot, and how its secret was had.
    #[must_use]
    pub fn opening(&self) -> &OpenedBy {
        &self.opened_by
    }

    /// Where keys live.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The keys that change while a broker runs, as they are now.
    pub(super) fn now(&self) -> Changing {
        Changing::clone(&self.ring.changing.load())
    }

    /// Takes up what those keys are once that is committed.
    pub(super) fn take_up(&self, changed: Changing) {
        self.ring.changing.store(Arc::new(changed));
    }

    /// Waits until nobody else changes the keyring. A change is sealed from the keys that are here: what is committed
    /// between its making and its own commit would be lost, so it is kept until both are done.
    pub async fn changing(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    /// What denial ids are made with.
    #[must_use]
    pub fn denial_key(&self) -> DenialKey<'_> {
        DenialKey::new(self.ring.denial.active().key.expose())
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn row_codec(&self) -> Arc<RowCodec> {
        Arc::clone(&self.codec)
    }

    /// A snapshot, and what verifies every row of it for as long as it is read: keys of the rows' MACs that are dropped
    /// meanwhile stay with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn standing<S: Store>(
        &self,
        store: &S,
    ) -> Result<(RowCodec, S::Snapshot), StoreError> {
        loop {
            // First the keys, and once more: no row of the snapshot has a tag of one that came after them.
            let codec = self.codec.standing();
            let snapshot = store.snapshot().await?;
            if codec.mac_epoch() == self.mac_epoch() {
                return Ok((codec, snapshot));
            }
        }
    }

    /// Makes a signer for one copy of the anchor.
    pub(crate) fn anchor_signer(&self) -> MakeSigner {
        let origin = anchor_origin(self.store.as_bytes());
        let ring = Arc::clone(&self.ring);
        Box::new(move || {
            let key = ring.changing.load().audit_signing.share_active();
            Signer::from_seed(&origin, key.key.expose()).map_err(CheckpointError::from)
        })
    }

    /// What verifies a copy of the anchor: any of the keys that have signed one, the newest last.
    pub(crate) fn anchor_verifiers(&self) -> Result<Vec<Verifier>, KeysError> {
        let origin = anchor_origin(self.store.as_bytes());
        let epochs = self.audit_epochs()?.into_iter();
        let verifiers = epochs.map(|it| Verifier::new(&origin, it.public));
        let verifiers: Result<_, NoteError> = verifiers.collect();
        verifiers.map_err(|_| EnvelopeError::Refused.into())
    }

    fn draw(arena: &Arena, store: StoreId, secret: &Key) -> Result<(Self, Change), KeysError> {
        const FIRST: u64 = 1;
        let keys = Purpose::ALL
            .iter()
            .map(|_| arena.random_key())
            .collect::<Result<Vec<_>, _>>()?;
        let entries = Purpose::ALL
            .iter()
            .zip(&keys)
            .map(|(purpose, key)| {
                Ok(KeyringEntry {
                    purpose: *purpose,
                    state: KeyState::Active,
                    epoch: 1,
                    id: KeyId::random(&SystemRandom)?,
                    key: key.expose(),
                })
            })
            .collect::<Result<Vec<_>, EnvelopeError>>()?;
        let mut record = LockedBuf::new(record_bytes(entries.len()))?;
        write_record(&entries, record.as_mut_slice())?;
        let fresh = FreshSrk::new(arena.random_key()?);
        let (sealed, srk) = fresh.seal(store, FIRST, record.as_slice())?;
        let ring = Ring::load(arena, &entries)?.ok_or(EnvelopeError::Refused)?;
        let rekey = SigningSeed::new(ring.rekey.active().key.expose());
        let slot = SlotId::random(&SystemRandom)?;
        let identity = SlotIdentity::key_file(
            &SystemRandom,
            store,
            slot,
            SlotSecret::new(secret.expose()),
            rekey.verifying_key()?,
        )?;
        let seal = identity.seal_srk(&SystemRandom, store, FIRST, Srk::new(srk.expose()), rekey)?;
        let about = about(FIRST_SLOT)?;
        let by = OpenedBy {
            slot,
            name: about.name.clone(),
            how: "its making".to_owned(),
        };
        let row = Slot {
            identity,
            seal,
            about,
        };
        let mut rows = Change::default();
        rows.put(Table::Meta, KEYRING_ROW, sealed.encode());
        rows.put(Table::Slot, *slot.as_bytes(), row.encode());
        Ok((Self::assemble(arena, store, FIRST, by, ring), rows))
    }

    fn assemble(
        arena: &Arena,
        store: StoreId,
        number: u64,
        opened_by: OpenedBy,
        ring: Ring,
    ) -> Self {
        let ring = Arc::new(ring);
        Self {
            store,
            number,
            opened_by,
            arena: arena.clone(),
            codec: Arc::new(RowCodec::new(store, Arc::clone(&ring))),
            ring,
            changing: Arc::default(),
        }
    }
}

/// What a slot is known by that is made now.
fn about(name: &str) -> Result<SlotAbout, EnvelopeError> {
    let name = name.parse();
    Ok(SlotAbout {
        name: name.map_err(|_| EnvelopeError::Rule("a slot has a name of the grammar"))?,
        created_ms: Timestamp::now()
            .as_millisecond()
            .try_into()
            .unwrap_or_default(),
        verified_ms: None,
    })
}

async fn read_keyring<S: Store>(store: &S) -> Result<SealedKeyring, UnlockError> {
    let stored = store.get(Table::Meta, KEYRING_ROW).await?;
    let stored = stored.ok_or(UnlockError::Missing { record: "keyring" })?;
    UnverifiedRow::parse(&stored)
        .and_then(|row| SealedKeyring::decode(row.unverified_body()))
        .map_err(|source| UnlockError::Record {
            record: "keyring",
            source,
        })
}
