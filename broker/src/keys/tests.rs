use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use attache_arena::{Arena, Key};
use attache_envelope::SystemRandom;
use attache_envelope::id::StoreId;
use attache_envelope::key::SlotSecret;
use attache_envelope::row::UnverifiedRow;
use attache_envelope::slot::{KEY_FILE_BYTES, Slot, write_key_file};
use attache_mtls::private_file::PrivateFileError;

use super::*;
use crate::store::fixture::Fixture;
use crate::store::{RedbStore, Table};
use crate::vault::tests::Bench;

async fn unlock(fixture: &Fixture, slot_file: &Path) -> Result<Keys, UnlockError> {
    let store = RedbStore::open(&fixture.store_path()).unwrap();
    Keys::open(&fixture.arena, &store, slot_file).await
}

fn refused(opened: Result<Keys, UnlockError>) -> UnlockError {
    match opened {
        Ok(_) => panic!("the keyring opens"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_slot_file_opens_the_keyring_that_init_made() {
    let dir = tempfile::tempdir().unwrap();
    let arena = Arena::new().unwrap();
    let id = StoreId::random(&SystemRandom).unwrap();
    let slot = dir.path().join("slot");
    let (made, rows) = Keys::create(&arena, id, &slot).unwrap();
    let store = RedbStore::create(&dir.path().join("s"), id).unwrap();
    crate::store::Ledger::initialise(&store, &made, &rows)
        .await
        .unwrap();
    let opened = Keys::open(&arena, &store, &slot).await.unwrap();
    assert_eq!(opened.store_id(), id);
    assert_eq!(opened.keyring_number(), 1);
    assert_eq!(opened.audit_key().seed(), made.audit_key().seed());
    assert_eq!(opened.audit_epochs().unwrap(), made.audit_epochs().unwrap());
    assert_eq!(opened.ca_key().seed(), made.ca_key().seed());
    assert_ne!(opened.ca_key().seed(), opened.audit_key().seed());
}

#[tokio::test]
async fn the_slot_file_is_0400_and_never_overwritten() {
    let fixture = Fixture::new().await;
    let path = fixture.slot_path();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
    let before = fs::read(&path).unwrap();
    assert_eq!(before.len(), KEY_FILE_BYTES);
    let again = Keys::create(&fixture.arena, fixture.id, &path);
    assert!(matches!(again.err(), Some(CreateError::SlotFile { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_slot_file_that_others_may_read_is_refused() {
    let fixture = Fixture::new().await;
    for mode in [0o440, 0o404, 0o644] {
        fs::set_permissions(fixture.slot_path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = refused(unlock(&fixture, &fixture.slot_path()).await);
        assert!(matches!(
            error,
            UnlockError::SlotFile(PrivateFileError::Mode { mode: found, .. }) if found == mode
        ));
    }
    fs::set_permissions(fixture.slot_path(), fs::Permissions::from_mode(0o400)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(fixture.slot_path(), Some(4242), None).unwrap();
        let error = refused(unlock(&fixture, &fixture.slot_path()).await);
        assert!(matches!(
            error,
            UnlockError::SlotFile(PrivateFileError::Owner { .. })
        ));
    }
}

#[tokio::test]
async fn a_file_that_is_no_slot_file_is_refused_and_not_shown() {
    let fixture = Fixture::new().await;
    let path = fixture.slot_path().with_file_name("other");
    for text in ["", "hunter2", "attache-slot-key-2:AAAA\n"] {
        drop(fs::remove_file(&path));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let error = refused(unlock(&fixture, &path).await);
        assert!(matches!(error, UnlockError::SlotFileShape { .. }));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    let absent = refused(unlock(&fixture, &path.with_file_name("none")).await);
    assert!(matches!(
        absent,
        UnlockError::SlotFile(PrivateFileError::Io { .. })
    ));
}

#[tokio::test]
async fn the_slot_file_of_another_store_is_told_as_such() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    let error = refused(unlock(&fixture, &other.slot_path()).await);
    assert!(
        matches!(error, UnlockError::WrongSlotFile { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("another store"));
}

/// What whoever can write the store file, and knows the slot's public key from it, can try.
#[tokio::test]
async fn a_keyring_and_srk_seal_forged_from_the_public_key_alone_do_not_open() {
    let fixture = Fixture::new().await;
    let stored = fixture.raw(Table::Slot);
    let (row_key, row) = stored.first_key_value().unwrap();
    let body = UnverifiedRow::parse(row).unwrap().unverified_body();
    let genuine = Slot::decode(body).unwrap();

    // A keyring of the forger's own, for this very store, and its SRK sealed to the genuine slot's public key.
    let forged = forge(&fixture.arena, fixture.id, &genuine);

    let replace = |rows: &mut crate::store::fixture::RawTable, key: &[u8], body: &[u8]| {
        let mut bytes = rows[key][..14].to_vec();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&[0; 32]);
        rows.insert(key.to_vec(), bytes);
    };
    fixture.tamper(Table::Meta, |rows| {
        replace(rows, b"keyring", &forged.keyring)
    });
    fixture.tamper(Table::Slot, |rows| replace(rows, row_key, &forged.slot));
    let error = refused(unlock(&fixture, &fixture.slot_path()).await);
    assert!(
        matches!(error, UnlockError::WrongSlotFile { .. }),
        "{error}"
    );

    // The forged keyring under the genuine seal: its number fits, its key does not.
    fixture.tamper(Table::Slot, |rows| replace(rows, row_key, body));
    let error = refused(unlock(&fixture, &fixture.slot_path()).await);
    assert!(matches!(error, UnlockError::Keyring), "{error}");
}

struct Forged {
    keyring: Vec<u8>,
    slot: Vec<u8>,
}

fn forge(arena: &Arena, store: StoreId, genuine: &Slot) -> Forged {
    use attache_envelope::key::{SigningSeed, Srk};

    let (keyring, srk) = sealed_keyring(arena, store);
    let signer = arena.random_key().unwrap();
    let seal = genuine
        .identity
        .seal_srk(
            &SystemRandom,
            store,
            1,
            Srk::new(srk.expose()),
            SigningSeed::new(signer.expose()),
        )
        .unwrap();
    let slot = Slot {
        identity: genuine.identity.clone(),
        seal,
        about: genuine.about.clone(),
    };
    Forged {
        keyring,
        slot: slot.encode(),
    }
}

/// A keyring of keys that nobody else has, sealed for this store, and its SRK.
fn sealed_keyring(arena: &Arena, store: StoreId) -> (Vec<u8>, Key) {
    use attache_envelope::keyring::{
        FreshSrk, KeyState, KeyringEntry, Purpose, record_bytes, write_record,
    };

    let keys: Vec<Key> = Purpose::ALL
        .iter()
        .map(|_| arena.random_key().unwrap())
        .collect();
    let entries: Vec<_> = Purpose::ALL
        .iter()
        .zip(&keys)
        .map(|(purpose, key)| KeyringEntry {
            purpose: *purpose,
            state: KeyState::Active,
            epoch: 1,
            id: attache_envelope::id::KeyId::random(&SystemRandom).unwrap(),
            key: key.expose(),
        })
        .collect();
    let mut record = vec![0; record_bytes(entries.len())];
    write_record(&entries, &mut record).unwrap();
    let fresh = FreshSrk::new(arena.random_key().unwrap());
    let (sealed, srk) = fresh.seal(store, 1, &record).unwrap();
    (sealed.encode(), srk)
}

#[tokio::test]
async fn a_slot_and_keyring_mixed_from_two_stores_do_not_open() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    let keyring = other.raw(Table::Meta)[b"keyring".as_slice()].clone();
    fixture.tamper(Table::Meta, |rows| {
        drop(rows.insert(b"keyring".to_vec(), keyring));
    });
    let error = refused(unlock(&fixture, &fixture.slot_path()).await);
    assert!(matches!(error, UnlockError::Keyring), "{error}");
    fixture.tamper(Table::Meta, |rows| rows.clear());
    let error = refused(unlock(&fixture, &fixture.slot_path()).await);
    assert!(matches!(error, UnlockError::Missing { record: "keyring" }));
    fixture.tamper(Table::Slot, |rows| rows.clear());
    let error = refused(unlock(&fixture, &fixture.slot_path()).await);
    assert!(matches!(error, UnlockError::Missing { record: "slot" }));
}

#[tokio::test]
async fn a_wrong_secret_of_the_right_shape_does_not_open() {
    let fixture = Fixture::new().await;
    let path = fixture.slot_path().with_file_name("wrong");
    let mut text = [0; KEY_FILE_BYTES];
    write_key_file(SlotSecret::new(&[7; 32]), &mut text);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let error = refused(unlock(&fixture, &path).await);
    assert!(matches!(error, UnlockError::WrongSlotFile { .. }));
}

/// Whoever knows an SRK still cannot bring a keyring whose rekey key is not the one in the slot's blob.
#[tokio::test]
async fn a_keyring_of_another_rekey_key_does_not_open() {
    use attache_envelope::id::SlotId;
    use attache_envelope::key::{SigningSeed, Srk};
    use attache_envelope::slot::{SlotAbout, SlotIdentity};

    let fixture = Fixture::new().await;
    let secret = fixture.arena.random_key().unwrap();
    let signer = fixture.arena.random_key().unwrap();
    let rekey = SigningSeed::new(signer.expose());
    let slot = SlotId::random(&SystemRandom).unwrap();
    let identity = SlotIdentity::key_file(
        &SystemRandom,
        fixture.id,
        slot,
        SlotSecret::new(secret.expose()),
        rekey.verifying_key().unwrap(),
    )
    .unwrap();
    let (keyring, srk) = sealed_keyring(&fixture.arena, fixture.id);
    let seal = identity
        .seal_srk(&SystemRandom, fixture.id, 1, Srk::new(srk.expose()), rekey)
        .unwrap();
    let about = SlotAbout {
        name: "any".parse().unwrap(),
        created_ms: 1,
        verified_ms: None,
    };
    let slot_body = Slot {
        identity,
        seal,
        about,
    }
    .encode();
    let row = |body: &[u8]| [&[0, 1][..], &[0; 12], body, &[0; 32]].concat();
    fixture.tamper(Table::Slot, |rows| {
        rows.clear();
        rows.insert(slot.as_bytes().to_vec(), row(&slot_body));
    });
    fixture.tamper(Table::Meta, |rows| {
        rows.insert(b"keyring".to_vec(), row(&keyring));
    });
    let path = fixture.slot_path().with_file_name("known");
    let mut text = [0; KEY_FILE_BYTES];
    write_key_file(SlotSecret::new(secret.expose()), &mut text);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let error = refused(unlock(&fixture, &path).await);
    assert!(matches!(error, UnlockError::Keyring), "{error}");
}

#[tokio::test]
async fn of_the_keys_that_have_signed_the_public_halves_of_the_last_sixteen_are_known() {
    let bench = Bench::new().await;
    let (keys, ledger) = (bench.vault.keys(), bench.vault.ledger());
    let mut signed = Vec::new();
    for epoch in 1..=18 {
        signed.push(keys.audit_epochs().unwrap().last().copied().unwrap());
        let set = SlotSet::read(ledger).await.unwrap();
        let change = keys.rotate_audit(&set).unwrap();
        assert_eq!(change.succession.epoch, epoch + 1);
        ledger.apply(change.rekeyed.change).await.unwrap();
        keys.take_up_audit(change.epochs);
    }
    let known = keys.audit_epochs().unwrap();
    let (now, before) = known.split_last().unwrap();
    assert_eq!((now.epoch, before), (19, &signed[2..]));
    let bench = Bench::reopen(bench.close().await).await;
    assert_eq!(bench.vault.keys().audit_epochs().unwrap(), known);
}
