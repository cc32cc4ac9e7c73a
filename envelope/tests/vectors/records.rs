//! LP, rows, set hashes, the anchor chain, denial ids and generations.

use attache_envelope::anchor::TableSum;
use attache_envelope::denial::DenialId;
use attache_envelope::generation::{Generation, GenerationDigest, GenerationFile, Owner};
use attache_envelope::id::StoreId;
use attache_envelope::key::{AnchorMacKey, DenialKey, RowMacKey, SetHashKey};
use attache_envelope::lp::Lp;
use attache_envelope::row::{self, RowName, UnverifiedRow};
use serde_json::Value;

use super::bodies;
use super::case::{Expected, Fields, run};

#[test]
fn lp() {
    run("lp", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("LP refuses nothing")
        };
        let fields = given.value("fields").as_array().unwrap();
        let encoded = fields.iter().fold(Lp::new(), push);
        assert_eq!(encoded.as_bytes(), out.bytes("lp"));
    });
}

fn push(lp: Lp, field: &Value) -> Lp {
    let (kind, value) = field.as_object().unwrap().iter().next().unwrap();
    let number = || value.as_u64().unwrap();
    match kind.as_str() {
        "str" => lp.str(value.as_str().unwrap()),
        "hex" => lp.bytes(&hex::decode(value.as_str().unwrap()).unwrap()),
        "u16" => lp.u16(number().try_into().unwrap()),
        "u32" => lp.u32(number().try_into().unwrap()),
        "u64" => lp.u64(number()),
        "list" => lp.list(
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|parts| parts.as_array().unwrap().iter().fold(Lp::new(), push)),
        ),
        other => panic!("a field of kind {other}"),
    }
}

#[test]
fn row() {
    run("row", true, |given, expected| {
        let key = given.bytes("key");
        let name = RowName {
            store: given.id("store"),
            table: given.parse("table"),
            key: &key,
        };
        let k_row = given.array("k_row");
        let k_row = RowMacKey::new(&k_row);
        match expected {
            Expected::Out(out) => {
                let (epoch, seq, body) =
                    (given.u32("epoch"), given.u64("seq"), given.bytes("body"));
                let sealed = row::seal(k_row, epoch, &name, seq, &body);
                assert_eq!(sealed.bytes, out.bytes("row"));
                assert_eq!(sealed.tag.as_bytes().as_slice(), out.bytes("tag"));
                let unverified = UnverifiedRow::parse(&sealed.bytes).unwrap();
                assert_eq!(unverified.mac_epoch(), epoch);
                let row = unverified.verify(k_row, &name).unwrap();
                assert_eq!((row.mac_epoch, row.seq, row.body), (epoch, seq, &body[..]));
                assert_eq!(row.tag, sealed.tag);
            }
            Expected::Refused => {
                let bytes = given.bytes("row");
                UnverifiedRow::parse(&bytes)
                    .and_then(|row| row.verify(k_row, &name))
                    .unwrap_err();
            }
        }
    });
}

#[test]
fn set_hash() {
    run("set-hash", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("a set hash refuses nothing")
        };
        let k_set = given.array("k_set");
        let mut sum = TableSum::EMPTY;
        for (step, after) in given.list("steps").iter().zip(out.list("steps")) {
            check_step(given, step, &after, SetHashKey::new(&k_set), &mut sum);
        }
        assert_eq!(given.list("steps").len(), out.list("steps").len());
        assert_eq!(sum.hash().as_slice(), out.bytes("a"));
        assert_eq!(u64::from(sum.count()), out.u64("count"));
    });
}

fn check_step(
    given: &Fields,
    step: &Fields,
    after: &Fields,
    k_set: SetHashKey<'_>,
    sum: &mut TableSum,
) {
    let key = step.bytes("key");
    let name = RowName {
        store: given.id("store"),
        table: given.parse("table"),
        key: &key,
    };
    let tag = row::RowTag::from_bytes(step.array("tag"));
    let element = row::set_element(k_set, &name, &tag);
    match step.text("op") {
        "add" => sum.insert(&element).unwrap(),
        "remove" => sum.remove(&element).unwrap(),
        other => panic!("a step of {other}"),
    }
    assert_eq!(sum.hash().as_slice(), after.bytes("a"));
}

#[test]
fn anchor_chain() {
    run("anchor-chain", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("the chain refuses nothing")
        };
        let anchor = bodies::anchor(given);
        let key = given.array("k_anchor_mac");
        let t = anchor.t(AnchorMacKey::new(&key), given.id::<StoreId>("store"));
        assert_eq!(t.as_bytes().as_slice(), out.bytes("t"));
    });
}

#[test]
fn denial() {
    run("denial", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("a denial id refuses nothing")
        };
        let key = given.array("k_denial");
        let id = DenialId::new(
            DenialKey::new(&key),
            &given.parse("cluster"),
            &given.parse("pod_uid"),
            &given.parse("volume_name"),
            given.text("public_reason"),
        );
        assert_eq!(id.to_string(), out.text("id"));
        assert_eq!(out.parse::<DenialId>("id"), id);
    });
}

#[test]
fn generation() {
    run("generation", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("a generation refuses nothing")
        };
        let files = given.list("files");
        let files: Vec<_> = files
            .iter()
            .map(|file| GenerationFile {
                path: file.text("path"),
                mode: file.u32("mode"),
                owner: owner(file.text("owner")),
                value: file.id("value"),
            })
            .collect();
        let digest = GenerationDigest::of(&files).unwrap();
        assert_eq!(digest.as_bytes().as_slice(), out.bytes("digest"));
        let generation = Generation {
            incarnation: 1,
            seq: given.u64("seq"),
            digest,
        };
        assert_eq!(generation.folder(), out.text("folder"));
    });
}

fn owner(text: &str) -> Owner {
    let (uid, gid) = text.split_once(':').unwrap();
    let owner = Owner {
        uid: uid.parse().unwrap(),
        gid: (gid != "-").then(|| gid.parse().unwrap()),
    };
    assert_eq!(owner.to_string(), text);
    owner
}
