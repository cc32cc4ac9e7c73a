//! Bodies of rows, the anchor's row and the keyring's record.

use attache_envelope::anchor::{Anchor, AnchorTag, AuditHead, TableSum};
use attache_envelope::body::{
    BackupBody, HeadBody, HeadState, KekBody, KekIndexKey, KekState, KeyPolicy, KeyspaceBody,
    KeyspaceState, RequestBody, Rewrap, ValueKeyBody, VersionBody, WrappedKek, request_key,
};
use attache_envelope::key::AnchorSealKey;
use attache_envelope::keyring::{
    self, KeyState, KeyringEntry, Purpose, SealedKeyring, read_record, write_record,
};
use attache_envelope::name::{SecretPath, SecretVersion};
use attache_envelope::slot::Slot;
use attache_envelope::value::CtHash;
use attache_envelope::wrap::WrappedKey;

use super::case::{Expected, Fields, run};
use super::replay::Replay;

#[test]
fn body() {
    run("body", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("what is refused has tests beside the code")
        };
        let body = out.bytes("body");
        let (key, encoded) = match given.text("row") {
            "head" => head(given, &body),
            "version" => version(given, &body),
            "value-key" => value_key(given, &body),
            "kek" => kek(given, &body),
            "kek-index" => {
                let key = KekIndexKey {
                    kek: given.id("kek_id"),
                    value: given.id("value"),
                };
                (key.encode(), Vec::new())
            }
            "keyspace" => keyspace(given, &body),
            "request" => request(given, &body),
            "backup" => backup(given, &body),
            "slot" => slot(given, &body),
            "keyring" => {
                let sealed = SealedKeyring::decode(&body).unwrap();
                assert_eq!(sealed.number(), given.u64("number"));
                assert_eq!(sealed.ct(), given.bytes("ct"));
                (b"keyring".to_vec(), sealed.encode())
            }
            other => panic!("a row of {other}"),
        };
        assert_eq!((key, encoded), (out.bytes("key"), body));
    });
}

fn head(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let head = HeadBody {
        secret: given.id("secret"),
        state: match given.u64("state") {
            1 => HeadState::Active,
            2 => HeadState::Disabled,
            _ => HeadState::Destroyed,
        },
        active: SecretVersion::new(given.u64("active")),
        latest: SecretVersion::new(given.u64("latest")).unwrap(),
        created_ms: given.u64("created"),
        changed_ms: given.u64("changed"),
        changed_by: given.text("who").to_owned(),
    };
    assert_eq!(HeadBody::decode(body).unwrap(), head);
    let path = SecretPath {
        keyspace: given.parse("keyspace"),
        name: given.parse("name"),
    };
    (HeadBody::key(&path), head.encode())
}

fn version(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let fields = given.list("fields");
    let fields = fields.iter().map(|f| (f.parse("field"), f.id("value")));
    let version = VersionBody {
        number: SecretVersion::new(given.u64("number")).unwrap(),
        fields: fields.collect(),
        created_ms: given.u64("created"),
        created_by: given.text("who").to_owned(),
        note: given.text("note").to_owned(),
        pinned: given.u32("pinned") == 1,
    };
    assert_eq!(VersionBody::decode(body).unwrap(), version);
    let key = VersionBody::key(given.id("secret"), version.number);
    (key, version.encode())
}

fn wrapped(given: &Fields) -> WrappedKey {
    WrappedKey::from_bytes(given.array("wrapped"))
}

fn value_key(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let value_key = ValueKeyBody {
        secret: given.id("secret"),
        kek: given.id("key_id"),
        ct_hash: CtHash::from_bytes(given.array("ct_hash")),
        ct_bytes: given.u32("ct_bytes"),
        wrapped: wrapped(given),
    };
    assert_eq!(ValueKeyBody::decode(body).unwrap().encode(), body);
    (given.bytes("value"), value_key.encode())
}

fn kek(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let wrapped_kek = || WrappedKek {
        wrap_key: given.id("wrap_key_id"),
        wrapped: wrapped(given),
    };
    let kek = KekBody {
        kek: given.id("kek_id"),
        state: match given.u64("state") {
            1 => KekState::Active(wrapped_kek()),
            2 => KekState::DecryptOnly(
                wrapped_kek(),
                Rewrap {
                    rate: given.u32("rate"),
                    values: given.u64("values"),
                },
            ),
            3 => KekState::Retired(wrapped_kek()),
            _ => KekState::Destroyed,
        },
        created_ms: given.u64("created"),
        changed_ms: given.u64("changed"),
    };
    assert_eq!(KekBody::decode(body).unwrap().encode(), body);
    let key = KekBody::key(&given.parse("keyspace"), given.u32("epoch"));
    (key, kek.encode())
}

fn backup(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let verified = given.object("verified");
    let backup = BackupBody {
        incarnation: given.u32("incarnation"),
        seq: given.u64("seq"),
        hash: given.array("hash"),
        size: given.u64("size"),
        created_ms: given.u64("created"),
        created_by: given.text("who").to_owned(),
        verified: verified.map(|it| (it.u64("at"), it.text("by").to_owned())),
    };
    assert_eq!(BackupBody::decode(body).unwrap(), backup);
    (BackupBody::key(given.id("id")), backup.encode())
}

fn keyspace(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let keyspace = KeyspaceBody {
        state: match given.u64("state") {
            1 => KeyspaceState::Active,
            2 => KeyspaceState::Destroyed,
            _ => KeyspaceState::Removing,
        },
        key_epoch: given.u32("epoch"),
        created_ms: given.u64("created"),
        created_by: given.text("who").to_owned(),
        max_versions: given.u32("max_versions"),
        policy: KeyPolicy {
            max_age_s: given.u32("max_age"),
            max_wraps: given.u64("max_wraps"),
            automatic: given.u64("automatic") == 1,
            backup_age_s: given.u32("backup_age"),
        },
    };
    assert_eq!(KeyspaceBody::decode(body).unwrap(), keyspace);
    (KeyspaceBody::key(&given.parse("name")), keyspace.encode())
}

fn request(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let request = RequestBody {
        digest: given.array("digest"),
        result: given.bytes("result"),
        created_ms: given.u64("created"),
    };
    assert_eq!(RequestBody::decode(body).unwrap(), request);
    let key = request_key(given.text("operator"), given.id("request"));
    (key, request.encode())
}

fn slot(given: &Fields, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let slot = Slot::decode(body).unwrap();
    let (identity, seal) = (&slot.identity, &slot.seal);
    assert_eq!(identity.slot, given.id("slot"));
    assert_eq!(identity.kind, given.parse("kind"));
    assert_eq!(identity.kdf_parameters, given.bytes("kdf_parameters"));
    assert_eq!(identity.pk.as_bytes().as_slice(), given.bytes("pk"));
    assert_eq!(seal.number, given.u64("number"));
    assert_eq!(seal.enc.as_bytes().as_slice(), given.bytes("enc"));
    assert_eq!(seal.ct.as_slice(), given.bytes("ct"));
    assert_eq!(seal.signature.as_slice(), given.bytes("signature"));
    // By the offsets of the page.
    assert_eq!(body.get(80..224), Some(given.bytes("blob").as_slice()));
    assert_eq!(body.get(240..272), Some(seal.enc.as_bytes().as_slice()));
    assert_eq!(body.get(328..392), Some(seal.signature.as_slice()));
    assert_eq!(slot.about.name.as_str(), given.text("name"));
    assert_eq!(slot.about.created_ms, given.u64("created"));
    assert_eq!(slot.about.verified_ms.unwrap_or(0), given.u64("verified"));
    (identity.slot.as_bytes().to_vec(), slot.encode())
}

#[test]
fn anchor_row() {
    run("anchor-row", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("what is refused has tests beside the code")
        };
        let anchor = anchor(given);
        let k = given.array("k");
        let random = Replay::new(&given.bytes("salt"));
        let (key, store) = (AnchorSealKey::new(&k), given.id("store"));
        let row = anchor
            .seal(&random, key, given.id("key_id"), store)
            .unwrap();
        assert_eq!(row, out.bytes("row"));
        let sealed = attache_envelope::anchor::SealedAnchor::parse(&row).unwrap();
        assert_eq!(sealed.open(key, store).unwrap(), anchor);
    });
}

/// The anchor of a case.
pub(crate) fn anchor(given: &Fields) -> Anchor {
    let tables = given.list("tables");
    let tables = tables.iter().map(|table| {
        let sum = TableSum::from_parts(table.array("a"), table.u32("count"));
        (table.parse("table"), sum)
    });
    let heads = given.list("chains");
    let heads = heads.iter().map(|head| {
        let (size, root) = (head.u64("size"), head.array("root"));
        (head.id("chain"), AuditHead { size, root })
    });
    Anchor {
        incarnation: given.u32("incarnation"),
        seq: given.u64("seq"),
        t_prev: AnchorTag::from_bytes(given.array("t_prev")),
        tables: tables.collect(),
        heads: heads.collect(),
    }
}

#[test]
fn keyring_record() {
    run("keyring-record", true, |given, expected| match expected {
        Expected::Out(out) => {
            let keys = given.list("keys");
            let secrets: Vec<[u8; 32]> = keys.iter().map(|key| key.array("key")).collect();
            let entries = keys.iter().zip(&secrets).map(|(key, secret)| KeyringEntry {
                purpose: purpose(key.u64("purpose")),
                state: match key.u64("state") {
                    1 => KeyState::Active,
                    _ => KeyState::Old,
                },
                epoch: key.u32("epoch"),
                id: key.id("id"),
                key: secret,
            });
            let entries: Vec<_> = entries.collect();
            let mut record = vec![0; keyring::record_bytes(entries.len())];
            write_record(&entries, &mut record).unwrap();
            assert_eq!(record, out.bytes("record"));
            let read = read_record(&record).unwrap();
            let mut again = vec![0; record.len()];
            write_record(&read, &mut again).unwrap();
            assert_eq!(again, record);
        }
        Expected::Refused => assert!(read_record(&given.bytes("record")).is_err()),
    });
}

fn purpose(code: u64) -> Purpose {
    let known = Purpose::ALL.iter().copied();
    let mut fits = known.filter(|purpose| u64::from(purpose.code()) == code);
    fits.next().unwrap()
}
