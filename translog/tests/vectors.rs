//! Known answers, made from the construction page alone by a program in another language
//! (`tests/independent`). Every case of these files is checked: what it gives, or that it is refused.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says in which case"
)]

use attache_translog::{
    AnchorNote, Checkpoint, Frontier, Hash, Header, Items, LogKeys, Record, Records, Signer,
    Succession, Verifier, anchor_origin, consistency_proof, inclusion_proof, leaf_hash, log_origin,
    verify_consistency, verify_inclusion,
};
use serde_json::{Value, json};

/// Runs every case of a file: `given` for those with an answer, `accepts` for those that must be refused.
fn run(construction: &str, given: impl Fn(&Value, &Value), accepts: impl Fn(&Value) -> bool) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/independent/vectors");
    let file = std::fs::read(format!("{folder}/{construction}.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(vectors["construction"], construction);
    let cases = vectors["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        eprintln!("{construction}: {name}");
        match (case.get("out"), case.get("refused")) {
            (Some(out), None) => given(&case["in"], out),
            (None, Some(_)) => assert!(
                !accepts(&case["in"]),
                "{construction}: {name} must be refused"
            ),
            _ => panic!("{construction}: {name} has neither one answer nor one refusal"),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn hashes(value: &Value) -> Vec<Hash> {
    value.as_array().unwrap().iter().map(array).collect()
}

fn leaves(bodies: &Value) -> Vec<Hash> {
    bodies
        .as_array()
        .unwrap()
        .iter()
        .map(|body| leaf_hash(&bytes(body)))
        .collect()
}

fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    leaves.iter().for_each(|leaf| frontier.append(*leaf));
    frontier.root()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn leaf_bodies() {
    let items = |body: &[u8]| -> Result<Vec<(u16, Vec<u8>)>, _> {
        Items::new(body)?
            .map(|item| item.map(|(tag, value)| (tag, value.to_vec())))
            .collect::<Result<_, _>>()
    };
    run(
        "audit-leaf",
        |given, out| {
            let body = bytes(&out["body"]);
            assert_eq!(leaf_hash(&body), array(&out["leaf_hash"]));
            let expected = given["items"].as_array().unwrap().iter();
            let expected: Vec<(u16, Vec<u8>)> = expected
                .map(|item| {
                    (
                        number(&item["tag"]).try_into().unwrap(),
                        bytes(&item["value"]),
                    )
                })
                .collect();
            assert_eq!(items(&body), Ok(expected));
        },
        |given| items(&bytes(&given["body"])).is_ok(),
    );
}

#[test]
fn merkle_roots() {
    run(
        "merkle-root",
        |given, out| {
            let leaves = leaves(&given["bodies"]);
            assert_eq!(leaves, hashes(&out["leaf_hashes"]));
            assert_eq!(leaves.len() as u64, number(&out["size"]));
            assert_eq!(root(&leaves), array(&out["root"]));
        },
        |_| true,
    );
}

#[test]
fn merkle_inclusion_proofs() {
    run(
        "merkle-inclusion",
        |given, out| {
            let leaves = leaves(&given["bodies"]);
            let index = number(&given["index"]);
            let proof = inclusion_proof(usize::try_from(index).unwrap(), &leaves).unwrap();
            assert_eq!(proof, hashes(&out["proof"]));
            let (leaf, root) = (array(&out["leaf_hash"]), array(&out["root"]));
            assert_eq!(
                verify_inclusion(&leaf, index, number(&out["size"]), &proof, &root),
                Ok(())
            );
        },
        |given| {
            let (leaf, root) = (array(&given["leaf_hash"]), array(&given["root"]));
            let (index, size) = (number(&given["index"]), number(&given["size"]));
            verify_inclusion(&leaf, index, size, &hashes(&given["proof"]), &root).is_ok()
        },
    );
}

#[test]
fn merkle_consistency_proofs() {
    let verified = |first: &Value, given: &Value| {
        let (old, new) = (array(&given["first_root"]), array(&given["second_root"]));
        verify_consistency(
            number(first),
            number(&given["second"]),
            &old,
            &new,
            &hashes(&given["proof"]),
        )
    };
    run(
        "merkle-consistency",
        |given, out| {
            let leaves = leaves(&given["bodies"]);
            let first = usize::try_from(number(&given["first"])).unwrap();
            assert_eq!(
                consistency_proof(first, &leaves).unwrap(),
                hashes(&out["proof"])
            );
            assert_eq!(root(&leaves[..first]), array(&out["first_root"]));
            assert_eq!(verified(&given["first"], out), Ok(()));
        },
        |given| verified(&given["first"], given).is_ok(),
    );
}

#[test]
fn signed_notes() {
    run(
        "signed-note",
        |given, out| {
            let signer = Signer::from_seed(text(&given["name"]), &array(&given["seed"])).unwrap();
            assert_eq!(signer.verifier().vkey(), text(&out["vkey"]));
            assert_eq!(
                signer.sign(text(&given["text"])).unwrap(),
                text(&out["note"])
            );
            let verifier = Verifier::parse(text(&out["vkey"])).unwrap();
            assert_eq!(
                verifier,
                Verifier::new(text(&given["name"]), array(&out["pk"])).unwrap()
            );
            assert_eq!(verifier.open(text(&out["note"])), Ok(text(&given["text"])));
        },
        |given| {
            let verifier = Verifier::parse(text(&given["vkey"]));
            verifier.is_ok_and(|verifier| verifier.open(text(&given["note"])).is_ok())
        },
    );
}

#[test]
fn endorsements_of_audit_keys() {
    let log = |store: &Value| log_origin(&array(store), &[0xc4; 16]);
    run(
        "audit-key",
        |given, out| {
            let signer = Signer::from_seed(&log(&given["store"]), &array(&given["seed"])).unwrap();
            let (store, after) = (array(&given["store"]), array(&given["after"]));
            let epoch = number(&given["epoch"]).try_into().unwrap();
            let told = Succession::endorse(&store, &signer, epoch, after).unwrap();
            assert_eq!(told.before, array(&out["before"]));
            assert_eq!(told.endorsement, array(&out["endorsement"]));
            let keys = LogKeys::follow(signer.verifier().clone(), &[told]).unwrap();
            assert!(keys.vouch_for(&Verifier::new(keys.name(), after).unwrap()));
        },
        |given| {
            let before = Verifier::new(&log(&given["store"]), array(&given["before"])).unwrap();
            let told = Succession {
                epoch: number(&given["epoch"]).try_into().unwrap(),
                before: array(&given["before"]),
                after: array(&given["after"]),
                endorsement: array(&given["endorsement"]),
            };
            let after = Verifier::new(before.name(), told.after).unwrap();
            let keys = LogKeys::follow(before.clone(), &[told]).unwrap();
            after != before && keys.vouch_for(&after)
        },
    );
}

#[test]
fn checkpoints() {
    run(
        "checkpoint",
        |given, out| {
            let origin = log_origin(&array(&given["store"]), &array(&given["chain"]));
            assert_eq!(origin, text(&out["origin"]));
            let signer = Signer::from_seed(&origin, &array(&given["seed"])).unwrap();
            assert_eq!(signer.verifier().vkey(), text(&out["vkey"]));
            let checkpoint = Checkpoint {
                size: number(&given["size"]),
                root: array(&given["root"]),
            };
            assert_eq!(checkpoint.sign(&signer).unwrap(), text(&out["note"]));
            assert_eq!(
                Checkpoint::open(text(&out["note"]), signer.verifier()),
                Ok(checkpoint)
            );
        },
        |given| {
            let origin = log_origin(&array(&given["store"]), &array(&given["chain"]));
            let verifier = Verifier::parse(text(&given["vkey"])).unwrap();
            verifier.name() == origin && Checkpoint::open(text(&given["note"]), &verifier).is_ok()
        },
    );
}

#[test]
fn anchor_copies() {
    run(
        "anchor-note",
        |given, out| {
            let origin = anchor_origin(&array(&given["store"]));
            assert_eq!(origin, text(&out["origin"]));
            let signer = Signer::from_seed(&origin, &array(&given["seed"])).unwrap();
            let incarnation = number(&given["incarnation"]).try_into().unwrap();
            let anchor = AnchorNote {
                incarnation,
                seq: number(&given["seq"]),
                t: array(&given["t"]),
            };
            assert_eq!(anchor.sign(&signer).unwrap(), text(&out["note"]));
            assert_eq!(
                AnchorNote::open(text(&out["note"]), signer.verifier()),
                Ok(anchor)
            );
        },
        |given| {
            let origin = anchor_origin(&array(&given["store"]));
            let verifier = Verifier::parse(text(&given["vkey"])).unwrap();
            verifier.name() == origin && AnchorNote::open(text(&given["note"]), &verifier).is_ok()
        },
    );
}

#[test]
fn segments() {
    let records = |segment: &[u8]| -> Result<Vec<Value>, _> {
        let records = Records::new(segment).map(|(_, record)| {
            record.map(|record| match record {
                Record::Leaf(body) => json!({ "leaf": hex::encode(body) }),
                Record::Checkpoint(note) => json!({ "note": std::str::from_utf8(note).unwrap() }),
            })
        });
        records.collect()
    };
    run(
        "segment",
        |given, out| {
            let header = Header {
                store: array(&given["store"]),
                chain: array(&given["chain"]),
                first_index: number(&given["first_index"]),
            };
            assert_eq!(header.encode().as_slice(), bytes(&out["header"]));
            let segment = bytes(&out["segment"]);
            assert_eq!(Header::parse(&segment), Ok(header));
            assert_eq!(
                records(&segment).as_ref(),
                Ok(given["records"].as_array().unwrap())
            );
            // As a file has it: filled with zeros.
            let filled = [segment, vec![0; 100]].concat();
            assert_eq!(
                records(&filled).as_ref(),
                Ok(given["records"].as_array().unwrap())
            );
        },
        |given| {
            let segment = bytes(&given["segment"]);
            Header::parse(&segment).is_ok() && records(&segment).is_ok()
        },
    );
}
