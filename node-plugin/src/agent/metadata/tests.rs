use attache_envelope::generation::Owner;
use attache_envelope::id::{BootId, ReleaseId, SecretId, SessionId, StoreId, ValueId};
use attache_envelope::name::{SecretPath, SecretVersion};
use attache_envelope::release::GrantedValue;
use attache_envelope::value::CtHash;
use attache_envelope::x25519::Enc;

use super::*;
use crate::agent::answer::ReleasedFile;
use crate::agent::session::SessionName;
use crate::ipc::NewFile;
use crate::vectors::{Expected, run};

fn release(files: usize, path_bytes: usize) -> Release {
    let path: SecretPath = "payments/db".parse().unwrap();
    let pod = "uid-1".parse().unwrap();
    Release {
        generation: Generation {
            incarnation: 1,
            seq: 42,
            digest: [0xab; 32],
        },
        session: SessionName {
            session: SessionId::from_bytes([1; 16]),
            enc: Enc::from_bytes([1; 32]),
            store: StoreId::from_bytes([1; 16]),
            boot: BootId::from_bytes([1; 16]),
        },
        release: ReleaseId::from_bytes([1; 16]),
        leaf_hash: [0; 32],
        volume: attache_envelope::name::VolumeId::of(&pod, &"secrets".parse().unwrap()),
        cluster: "local".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        pod,
        container: "app".parse().unwrap(),
        sealed_keys: Vec::new(),
        granted: vec![GrantedValue {
            path,
            secret: SecretId::from_bytes([2; 16]),
            version: SecretVersion::new(7).unwrap(),
            field: "password".parse().unwrap(),
            value: ValueId::from_bytes([3; 16]),
            ct_hash: CtHash::from_bytes([4; 32]),
        }],
        ciphertexts: Vec::new(),
        files: (0..files)
            .map(|n| ReleasedFile {
                path: format!("{n:0path_bytes$}"),
                mode: 0o440,
                value: 0,
            })
            .collect(),
        owner: Owner {
            uid: 1000,
            gid: None,
        },
        missing: vec!["payments/api@3".parse().unwrap()],
    }
}

fn set() -> FileSet {
    FileSet::of(&[NewFile {
        path: "0",
        mode: 0o400,
        uid: 1000,
        gid: None,
        value: b"x",
    }])
}

fn stat() -> VolumeStat {
    let generation = Generation {
        incarnation: 1,
        seq: 42,
        digest: [0xab; 32],
    };
    VolumeStat {
        mounted: true,
        whole: true,
        complete: true,
        generation: Some(generation.folder()),
        files: 1,
        bytes: 1,
        file_set: set().digest(),
    }
}

#[test]
fn it_says_what_the_volume_holds_and_reads_back() {
    let json = write(
        &release(1, 1),
        &set(),
        "2026-11-23T10:00:00.5Z".parse().unwrap(),
    );
    let told: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(told["format"], 1);
    assert_eq!(told["generation"]["seq"], 42);
    assert_eq!(told["generation"]["digest"], "ab".repeat(32));
    assert_eq!(told["deliveredAt"], "2026-11-23T10:00:00Z");
    let file = serde_json::json!({"path": "0", "ref": "payments/db@7#password", "mode": "0440"});
    assert_eq!(told["files"], serde_json::json!([file]));
    assert_eq!(told["missing"], serde_json::json!(["payments/api@3"]));
    assert!(told.get("truncated").is_none());
    assert_eq!(held(&stat(), Some(&json)), Some(release(1, 1).generation));
}

#[test]
fn a_mount_that_is_not_what_was_written_holds_nothing() {
    let json = write(&release(1, 1), &set(), Timestamp::now());
    let folder = Generation {
        incarnation: 1,
        seq: 43,
        digest: [0xab; 32],
    }
    .folder();
    for other in [
        VolumeStat {
            mounted: false,
            ..stat()
        },
        VolumeStat {
            generation: None,
            ..stat()
        },
        VolumeStat {
            generation: Some(folder),
            ..stat()
        },
        VolumeStat {
            file_set: [0; 32],
            ..stat()
        },
    ] {
        assert_eq!(held(&other, Some(&json)), None, "{other:?}");
    }
    assert_eq!(held(&stat(), None), None);
    let text = String::from_utf8(json).unwrap();
    for bad in [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "\0".to_owned(),
        text.replace("\"format\":1", "\"format\":2"),
        text.replace("\"seq\":42", "\"seq\":\"42\""),
        text.replace("\"seq\":42", "\"seq\":-1"),
        text.replace(&"ab".repeat(32), "ab"),
        text[..text.len() / 2].to_owned(),
    ] {
        assert_eq!(held(&stat(), Some(bad.as_bytes())), None, "{bad}");
    }
}

#[test]
fn lists_that_are_too_long_are_left_out_and_said_to_be() {
    let json = write(&release(256, 250), &set(), Timestamp::now());
    assert!(json.len() <= MAX_METADATA_BYTES);
    let told: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(told["truncated"], true);
    assert_eq!(told["files"], serde_json::json!([]));
    assert_eq!(held(&stat(), Some(&json)), Some(release(1, 1).generation));
}

#[test]
fn metadata_is_that_of_the_vectors() {
    run("metadata", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("metadata refuses nothing")
        };
        let listed = given.list("files");
        let values: Vec<Vec<u8>> = listed.iter().map(|file| file.bytes("value")).collect();
        let files = listed.iter().zip(&values).map(|(file, value)| NewFile {
            path: file.text("path"),
            mode: file.u32("mode").try_into().unwrap(),
            uid: file.u32("uid"),
            gid: (!file.value("gid").is_null()).then(|| file.u32("gid")),
            value,
        });
        let set = FileSet::of(&files.collect::<Vec<_>>());
        assert_eq!(set.digest().as_slice(), out.bytes("file_set"));
        let mut release = release(1, 1);
        release.generation = Generation {
            incarnation: given.u32("incarnation"),
            seq: given.u64("seq"),
            digest: given.array("digest"),
        };
        let granted = release.granted.pop().unwrap();
        release.files.clear();
        for (value, told) in given.list("told").iter().enumerate() {
            let reference = told.text("ref");
            let (path, rest) = reference.split_once('@').unwrap();
            let (version, field) = rest.split_once('#').unwrap();
            release.granted.push(GrantedValue {
                path: path.parse().unwrap(),
                version: SecretVersion::new(version.parse().unwrap()).unwrap(),
                field: field.parse().unwrap(),
                ..granted.clone()
            });
            release.files.push(ReleasedFile {
                path: told.text("path").to_owned(),
                mode: told.u32("mode").try_into().unwrap(),
                value,
            });
        }
        release.missing = given
            .texts("missing")
            .iter()
            .map(|m| m.parse().unwrap())
            .collect();
        if given.flag("truncated") {
            let many = self::release(256, 250);
            (release.files, release.granted) = (many.files, many.granted);
        }
        let text = write(&release, &set, given.parse("delivered_at"));
        assert_eq!(String::from_utf8(text).unwrap(), out.text("text"));
    });
}
