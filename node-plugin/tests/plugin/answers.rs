//! A broker that lies: no answer that differs from what this node knows, or does not open, is ever mounted.

use attache_envelope::id::{Nonce, ReleaseId};
use attache_proto::attache::v1 as pb;
use tonic::Code;

use crate::bed::{Bed, Volume};
use crate::world::{Say, Sealing};

#[test]
#[expect(clippy::too_many_lines, reason = "one table of lies")]
fn no_bent_answer_is_believed() {
    let bed = Bed::start();
    type Bend = fn(&mut pb::Released);
    let bends: &[(&str, Bend)] = &[
        ("generation", |r| r.generation = None),
        ("generation.digest", |r| {
            r.generation.as_mut().unwrap().digest[0] ^= 1
        }),
        ("generation.digest short", |r| {
            r.generation.as_mut().unwrap().digest.truncate(31)
        }),
        ("session", |r| r.session[0] ^= 1),
        ("session long", |r| r.session.push(0)),
        ("enc", |r| r.enc[0] ^= 1),
        ("enc of zeros", |r| r.enc = vec![0; 32]),
        ("store", |r| r.store[0] ^= 1),
        ("store empty", |r| r.store.clear()),
        ("boot", |r| r.boot[0] ^= 1),
        ("broker_id", |r| {
            r.broker_id = "spiffe://attache.test/broker/broker-1".into()
        }),
        ("release", |r| r.release[0] ^= 1),
        ("leaf_hash", |r| r.leaf_hash[0] ^= 1),
        ("leaf_hash short", |r| r.leaf_hash.truncate(31)),
        ("sealed_keys", |r| r.sealed_keys[0] ^= 1),
        ("sealed_keys tag", |r| {
            *r.sealed_keys.last_mut().unwrap() ^= 1
        }),
        ("sealed_keys short", |r| r.sealed_keys.truncate(79)),
        ("sealed_keys empty", |r| r.sealed_keys.clear()),
        ("values none", |r| r.values.clear()),
        ("values swapped", |r| r.values.swap(0, 1)),
        ("values more", |r| r.values.push(r.values[0].clone())),
        ("values many", |r| r.values = vec![r.values[0].clone(); 300]),
        ("value keyspace", |r| r.values[0].keyspace = "other".into()),
        ("value keyspace malformed", |r| {
            r.values[0].keyspace = "Not/one".into()
        }),
        ("value name", |r| r.values[0].name = "other".into()),
        ("value secret", |r| r.values[0].secret[0] ^= 1),
        ("value version", |r| r.values[0].version += 1),
        ("value version 0", |r| r.values[0].version = 0),
        ("value field", |r| r.values[0].field = "other".into()),
        ("value id", |r| r.values[0].value[0] ^= 1),
        ("value hash", |r| r.values[0].ct_sha256[0] ^= 1),
        ("value ct", |r| {
            r.values[0].ct = bytes::Bytes::from_static(b"0123456789abcdef0")
        }),
        ("value ct empty", |r| r.values[0].ct.clear()),
        ("files none", |r| r.files.clear()),
        ("files fewer", |r| drop(r.files.pop())),
        ("files twice", |r| r.files.push(r.files[0].clone())),
        ("files many", |r| r.files = vec![r.files[0].clone(); 300]),
        ("file path", |r| r.files[0].path = "db/other".into()),
        ("file path out", |r| {
            r.files[0].path = "../../etc/passwd".into()
        }),
        ("file path absolute", |r| {
            r.files[0].path = "/etc/passwd".into()
        }),
        ("file path NUL", |r| r.files[0].path = "a\0".into()),
        ("file mode", |r| r.files[0].mode = 0o4777),
        ("file mode large", |r| r.files[0].mode = u32::MAX),
        ("file value", |r| r.files[0].value = 1),
        ("file value out of range", |r| r.files[0].value = 2),
        ("owner", |r| r.owner_uid = 0),
        ("owner group", |r| r.owner_gid = None),
        ("missing malformed", |r| {
            r.missing.push("not a reference".into())
        }),
        ("missing many", |r| {
            r.missing = vec!["payments/db".into(); 300]
        }),
        ("cluster", |r| r.cluster = "other".into()),
        ("namespace", |r| r.namespace = "other".into()),
        ("pod_uid", |r| r.pod_uid = "uid-other".into()),
        ("container", |r| r.container = "sidecar".into()),
    ];
    let volume = Volume::new("web-0");
    for (what, bend) in bends {
        bed.broker.say(Say::Bend(*bend));
        refuse_twice(&bed, &volume, what);
    }
    bed.broker.say(Say::Unchanged);
    refuse_twice(&bed, &volume, "unchanged, and nothing is held");
    bed.broker.say(Say::Truth);
    bed.publish(&volume).unwrap();
}

/// What the seal binds: a release that was made for anything else does not open here.
#[test]
fn a_release_opens_only_as_what_it_was_sealed_for() {
    let bed = Bed::start();
    type Misseal = fn(&mut Sealing);
    let lies: &[(&str, Misseal)] = &[
        ("another attempt's nonce", |s| {
            s.nonce = Nonce::from_bytes([0; 16])
        }),
        ("another release", |s| {
            s.release = ReleaseId::from_bytes([0; 16])
        }),
        ("another leaf", |s| s.leaf_hash[0] ^= 1),
        ("another pod", |s| s.pod = "uid-other".into()),
        ("another container", |s| s.container = "sidecar".into()),
        ("another volume", |s| {
            s.volume = format!("csi-{}", "0".repeat(64))
        }),
        ("another node", |s| {
            s.node_id = "spiffe://attache.test/node/local/other".into()
        }),
    ];
    for (what, lie) in lies {
        bed.broker.say(Say::Missealed(*lie));
        refuse_twice(&bed, &Volume::new("web-0"), what);
    }
}

fn refuse_twice(bed: &Bed, volume: &Volume, what: &str) {
    let refused: Vec<_> = (0..2)
        .map(|_| bed.publish(volume).expect_err(what))
        .collect();
    assert!(
        matches!(refused[0].code(), Code::Internal | Code::ResourceExhausted),
        "{what}: {:?}",
        refused[0]
    );
    assert_eq!(refused[0].message(), refused[1].message(), "{what}");
    assert!(!refused[0].message().contains("canary"), "{what}");
    assert!(bed.mounts().is_empty(), "{what}");
}

#[test]
fn more_than_a_volume_can_hold_is_refused_with_the_mend() {
    let bed = Bed::start();
    bed.broker.put("username", &vec![b'x'; 512 * 1024]);
    bed.broker.put("password", &vec![b'x'; 512 * 1024]);
    bed.publish(&Volume::new("web-0")).unwrap();
    bed.broker.put("password", &vec![b'x'; 512 * 1024 + 1]);
    let refused = bed.publish(&Volume::new("web-1")).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("ask for fewer"), "{refused:?}");
    assert_eq!(bed.mounts().len(), 1);
}
