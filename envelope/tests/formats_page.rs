//! Holds `docs/formats.md` against the code and the vectors: a byte that changes here changes there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use attache_envelope::anchor::{Anchor, AnchorTag, AuditHead, TableSum};
use attache_envelope::body::{
    HeadBody, HeadState, KekBody, KekIndexKey, KekState, KeyspaceBody, KeyspaceState, RequestBody,
    ValueKeyBody, VersionBody,
};
use attache_envelope::id::{ChainId, KeyId, SecretId, SlotId, StoreId, ValueId};
use attache_envelope::key::{AnchorSealKey, SigningSeed, SlotSecret, Srk};
use attache_envelope::keyring::{self, KeyState, KeyringEntry, Purpose};
use attache_envelope::lp::Reader;
use attache_envelope::name::SecretVersion;
use attache_envelope::slot::{Slot, SlotIdentity};
use attache_envelope::value::CtHash;
use attache_envelope::wrap::{self, AnchorBinding, WrappedKey};
use attache_envelope::x25519::PublicKey;
use attache_envelope::{SystemRandom, Table};
use serde_json::Value;

const CREATED_MS: u64 = 1_700_000_000_000;
const ALICE: &str = "spiffe://example.internal/operator/alice";
const STORE: StoreId = StoreId::from_bytes([1; 16]);

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats.md")).unwrap()
}

fn shown(what: &str, bytes: &[u8]) {
    let text = hex::encode(bytes);
    assert!(
        page().contains(&text),
        "the page does not show {what}: {text}"
    );
}

#[test]
fn bodies_are_as_the_page_shows() {
    let head = HeadBody {
        secret: SecretId::from_bytes([0x11; 16]),
        state: HeadState::Active,
        active: SecretVersion::new(2),
        latest: SecretVersion::new(3).unwrap(),
        created_ms: CREATED_MS,
        changed_ms: CREATED_MS + 1000,
        changed_by: ALICE.to_owned(),
    };
    shown("the head", &head.encode());
    let field = |name: &str, value: u8| (name.parse().unwrap(), ValueId::from_bytes([value; 16]));
    let version = VersionBody {
        number: SecretVersion::new(3).unwrap(),
        fields: [field("password", 0x22), field("username", 0x33)].into(),
        created_ms: CREATED_MS,
        created_by: ALICE.to_owned(),
        note: "rotated".to_owned(),
    };
    shown("the version", &version.encode());
    let request = RequestBody {
        digest: [0x44; 32],
        result: b"ok".to_vec(),
        created_ms: CREATED_MS,
    };
    shown("the request", &request.encode());
}

#[test]
fn bodies_of_keys_are_as_the_page_shows() {
    let wrapped = || WrappedKey::from_bytes([0x77; 112]);
    let keyspace = KeyspaceBody {
        state: KeyspaceState::Active,
        key_epoch: 1,
        created_ms: CREATED_MS,
        created_by: ALICE.to_owned(),
    };
    shown("the keyspace", &keyspace.encode());
    let kek = KekBody {
        kek: KeyId::from_bytes([0x55; 16]),
        state: KekState::Active {
            wrap_key: KeyId::from_bytes([0x66; 16]),
            wrapped: wrapped(),
        },
        created_ms: CREATED_MS,
    };
    shown("the KEK", &kek.encode());
    let value_key = ValueKeyBody {
        secret: SecretId::from_bytes([0x11; 16]),
        kek: KeyId::from_bytes([0x55; 16]),
        ct_hash: CtHash::from_bytes([0x88; 32]),
        ct_bytes: 44,
        wrapped: wrapped(),
    };
    shown("the value key", &value_key.encode());
    assert!(page().contains(&format!(
        "kek-index  {}\n",
        hex::encode(KekIndexKey::body())
    )));
}

#[test]
fn the_keyring_record_is_as_the_page_shows() {
    let key = [0x77; 32];
    let entries: Vec<_> = Purpose::ALL
        .iter()
        .map(|purpose| KeyringEntry {
            purpose: *purpose,
            state: KeyState::Active,
            epoch: 1,
            id: KeyId::from_bytes([purpose.code(); 16]),
            key: &key,
        })
        .collect();
    let mut record = vec![0; keyring::record_bytes(entries.len())];
    keyring::write_record(&entries, &mut record).unwrap();
    shown("the keyring record", &record[..62]);
    for purpose in Purpose::ALL {
        let listed = format!("{} {}", purpose.code(), purpose.name());
        assert!(page().contains(&listed), "the page does not list {listed}");
    }
}

#[test]
fn the_slot_is_as_the_page_shows() {
    let (secret, rekey, srk) = ([3; 32], [4; 32], [5; 32]);
    let rekey = SigningSeed::new(&rekey);
    let verifying = rekey.verifying_key().unwrap();
    let slot = SlotId::from_bytes([0x22; 16]);
    let secret = SlotSecret::new(&secret);
    let mut identity =
        SlotIdentity::key_file(&SystemRandom, STORE, slot, secret, verifying).unwrap();
    identity.pk = PublicKey::from_bytes([0x99; 32]);
    let seal = identity
        .seal_srk(&SystemRandom, STORE, 1, Srk::new(&srk), rekey)
        .unwrap();
    let (enc, signature) = (seal.enc, seal.signature);
    let stored = Slot { identity, seal }.encode();
    shown("the slot's front", &stored[..76]);
    assert_eq!(stored.len(), 328 + 64);
    assert_eq!(&stored[240..272], enc.as_bytes());
    assert_eq!(&stored[328..], &signature);
}

#[test]
fn the_anchor_is_as_the_page_shows() {
    let (key, key_id) = ([6; 32], KeyId::from_bytes([0x44; 16]));
    let key = AnchorSealKey::new(&key);
    let anchor = Anchor {
        incarnation: 1,
        seq: 42,
        t_prev: AnchorTag::from_bytes([3; 32]),
        tables: [
            (Table::Head, TableSum::from_parts([0xaa; 32], 1)),
            (Table::ValueKey, TableSum::EMPTY),
        ]
        .into(),
        heads: [(
            ChainId::from_bytes([5; 16]),
            AuditHead {
                size: 33,
                root: [7; 32],
            },
        )]
        .into(),
    };
    let stored = anchor.seal(&SystemRandom, key, key_id, STORE).unwrap();
    shown("the anchor's front", &stored[..44]);
    let wrapped = Reader::new(&stored[44..]).bytes("wrap").unwrap();
    let binding = AnchorBinding {
        store: STORE,
        incarnation: 1,
        seq: 42,
    };
    let record = wrap::unwrap_anchor(key, key_id, &binding, wrapped).unwrap();
    shown("the anchor's record", &record);
}

#[test]
fn every_table_is_listed() {
    for table in Table::ALL {
        assert!(
            page().contains(table.name()),
            "the page does not name {table}"
        );
    }
}

/// Where the page shows what a vector holds: file, case, members of `out`.
const SHOWN: &[(&str, &str, &[&str])] = &[
    ("lp", "list of pairs", &["lp"]),
    ("keyring", "number 1", &["key"]),
    ("wrap-dek", "a DEK", &["aad", "stored"]),
    ("value", "a password", &["ct"]),
    ("srk-seal", "number 1", &["enc", "ct", "signature"]),
    ("key-file", "random", &["text"]),
    ("row", "empty body", &["row"]),
    ("anchor-chain", "step 1, from T_0", &["t"]),
    (
        "put",
        "one field of a new secret",
        &["info", "digest", "enc", "sealed"],
    ),
    ("release", "one value", &["info", "k", "enc", "sealed"]),
    ("denial", "no grant", &["id"]),
    (
        "generation",
        "one file",
        &["digest_input", "digest", "folder"],
    ),
];

#[test]
fn vectors_are_as_the_page_shows() {
    for (file, name, members) in SHOWN {
        let path = format!(
            "{}/../tests/independent/vectors/{file}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let whole: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let cases = whole["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == *name);
        let case = case.unwrap_or_else(|| panic!("{file} has no case {name}"));
        for member in *members {
            let text = case["out"][*member].as_str().unwrap();
            assert!(page().contains(text), "{file}, {name}, {member}: {text}");
        }
        assert!(
            page().contains(&format!("{file}.json`, \"{name}\"")),
            "{file}, {name}"
        );
    }
}

/// Every label in the code of any crate is on the page, and the other way round.
#[test]
fn labels_are_those_of_the_code() {
    let labels = |text: &str| -> std::collections::BTreeSet<String> {
        text.split('"')
            .filter(|part| part.starts_with("attache/") && part.ends_with("/1"))
            .map(str::to_owned)
            .collect()
    };
    let mut of_code = std::collections::BTreeSet::new();
    let mut folders: Vec<std::path::PathBuf> =
        ["envelope", "translog", "broker", "node-plugin", "cli"]
            .iter()
            .map(|name| {
                [env!("CARGO_MANIFEST_DIR"), "..", name, "src"]
                    .iter()
                    .collect()
            })
            .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                of_code.extend(labels(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(of_code.len() >= 16, "{of_code:?}");
    assert_eq!(labels(&page()), of_code);
}
