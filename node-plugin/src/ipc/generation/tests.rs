use proptest::prelude::*;

use super::*;
use crate::ipc::FileSet;
use crate::ipc::seal::{NewFile, SealError, SealedGeneration};
use crate::vectors::{Expected, Fields, run};
use attache_arena::{MemfdWriter, PinnedMap};

const GENERATION: Generation = Generation {
    incarnation: 3,
    seq: 0x2a,
    digest: [0xab; 32],
};

fn file<'a>(path: &'a str, value: &'a [u8]) -> NewFile<'a> {
    NewFile {
        path,
        mode: 0o400,
        uid: 1000,
        gid: None,
        value,
    }
}

fn sealed_bytes(files: &[NewFile<'_>], metadata: &[u8]) -> Vec<u8> {
    let sealed = SealedGeneration::seal(&GENERATION, files, metadata).unwrap();
    let len = usize::try_from(sealed.memfd_bytes()).unwrap();
    PinnedMap::sealed(&sealed, len).unwrap().as_slice().to_vec()
}

fn refused(files: &[NewFile<'_>]) -> FormatError {
    match SealedGeneration::seal(&GENERATION, files, b"{}") {
        Err(SealError::Format(error)) => error,
        Err(SealError::Memory(error)) => panic!("{error}"),
        Ok(_) => panic!("sealed"),
    }
}

#[test]
fn a_generation_comes_back_as_it_was_sealed_with_its_files_in_order() {
    let files = [
        NewFile {
            path: "db/password",
            mode: 0o440,
            uid: 1000,
            gid: Some(2000),
            value: b"hunter2",
        },
        file("api/token", b""),
        file("db-x", b"\0\xff"),
    ];
    let bytes = sealed_bytes(&files, b"{\"a\":1}");
    let contents = Contents::parse(&bytes).unwrap();
    assert_eq!(contents.generation, GENERATION);
    assert_eq!(contents.metadata, b"{\"a\":1}");
    let seen: Vec<_> = contents
        .files
        .iter()
        .map(|f| (f.path, f.mode, f.uid, f.gid, f.value))
        .collect();
    let expected: [(_, _, _, _, &[u8]); 3] = [
        ("api/token", 0o400, 1000, 0, b""),
        ("db-x", 0o400, 1000, 0, b"\0\xff"),
        ("db/password", 0o440, 1000, 2000, b"hunter2"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_documented_bytes() {
    let bytes = sealed_bytes(&[file("a", b"xyz")], b"{}");
    let mut expected = b"attache-".to_vec();
    expected.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0x2a]);
    expected.extend_from_slice(&[0xab; 32]);
    expected.extend_from_slice(&[0, 0, 0, 2, 0, 0, 0, 0]);
    expected.extend_from_slice(&[
        0, 1, 1, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
    ]);
    expected.extend_from_slice(b"a{}xyz");
    assert_eq!(bytes, expected);
}

#[test]
fn nothing_at_all_is_a_generation() {
    let bytes = sealed_bytes(&[], b"");
    assert_eq!(bytes.len(), 64);
    assert!(Contents::parse(&bytes).unwrap().files.is_empty());
}

#[test]
fn every_path_that_is_not_canonical_is_refused() {
    let long_part = "p".repeat(256);
    let long = [
        "d".repeat(200),
        "d".repeat(200),
        "d".repeat(200),
        "d".repeat(200),
        "d".repeat(221),
    ]
    .join("/");
    let deep = ["d"; 9].join("/");
    for path in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "./a",
        "a/.",
        "a/./b",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "..data",
        "..x/a",
        "a/..b",
        "a\0b",
        "a\nb",
        "a\u{85}b",
        ".attache.json",
        ".attache.json/a",
        &long_part,
        &long,
        &deep,
    ] {
        assert_eq!(
            refused(&[file(path, b"")]),
            FormatError::Path(0),
            "{path:?}"
        );
    }
    let longest = [
        "d".repeat(255),
        "d".repeat(255),
        "d".repeat(255),
        "d".repeat(255),
    ]
    .join("/");
    let deepest = ["d"; 8].join("/");
    for path in [
        "a",
        "a.b",
        ".a",
        "a b",
        "é",
        "a/.attache.json",
        &longest,
        &deepest,
    ] {
        sealed_bytes(&[file(path, b"")], b"");
    }
}

#[test]
fn a_path_there_twice_or_also_a_folder_is_refused() {
    assert_eq!(
        refused(&[file("a", b""), file("a", b"")]),
        FormatError::Order(1)
    );
    assert_eq!(
        refused(&[file("a/b", b""), file("a", b"")]),
        FormatError::FileIsFolder(0)
    );
    assert_eq!(
        refused(&[file("a/b/c", b""), file("a-x", b""), file("a/b", b"")]),
        FormatError::FileIsFolder(1)
    );
    sealed_bytes(&[file("a/b", b""), file("a-x", b""), file("a.b", b"")], b"");
}

#[test]
fn a_mode_that_gives_more_than_reading_is_refused() {
    for mode in [
        0o200,
        0o600,
        0o500,
        0o444 | 0o1000,
        0o4400,
        0o2440,
        0o111,
        0o777,
        u16::MAX,
    ] {
        let gid = Some(1);
        assert_eq!(
            refused(&[NewFile {
                mode,
                gid,
                ..file("a", b"")
            }]),
            FormatError::Mode(0),
            "{mode:o}"
        );
    }
    assert_eq!(
        refused(&[NewFile {
            mode: 0o440,
            ..file("a", b"")
        }]),
        FormatError::Mode(0)
    );
    for (mode, gid) in [
        (0o400, None),
        (0o440, Some(0)),
        (0o444, Some(5)),
        (0o404, None),
    ] {
        sealed_bytes(
            &[NewFile {
                mode,
                gid,
                ..file("a", b"")
            }],
            b"",
        );
    }
}

#[test]
fn the_id_that_chown_reads_as_none_is_refused() {
    assert_eq!(
        refused(&[NewFile {
            uid: u32::MAX,
            ..file("a", b"")
        }]),
        FormatError::Owner(0)
    );
    assert_eq!(
        refused(&[NewFile {
            gid: Some(u32::MAX),
            ..file("a", b"")
        }]),
        FormatError::Owner(0)
    );
    let mut bytes = sealed_bytes(&[file("a", b"")], b"");
    bytes[64 + 11] = 1; // a group where none is said to be
    assert_eq!(Contents::parse(&bytes).err(), Some(FormatError::Owner(0)));
}

#[test]
fn each_limit_holds() {
    let names: Vec<String> = (0..257).map(|n| format!("f{n:03}")).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, b"")).collect();
    assert_eq!(refused(&files), FormatError::TooLarge("files"));
    sealed_bytes(&files[..256], b"");
    let half = vec![7; MAX_VALUE_BYTES / 2];
    sealed_bytes(&[file("a", &half), file("b", &half)], b"");
    assert_eq!(
        refused(&[file("a", &half), file("b", &half), file("c", b"x")]),
        FormatError::TooLarge("bytes in all values")
    );
    sealed_bytes(&[], &vec![b' '; MAX_METADATA_BYTES]);
    let sealed = SealedGeneration::seal(&GENERATION, &[], &vec![b' '; MAX_METADATA_BYTES + 1]);
    assert!(matches!(
        sealed,
        Err(SealError::Format(FormatError::TooLarge("metadata")))
    ));
}

/// Fields of the header and of the one entry, each made wrong in one way.
#[test]
fn each_wrong_field_is_refused() {
    let good = sealed_bytes(&[file("a", b"xyz")], b"{}");
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        Contents::parse(&bytes).err()
    };
    assert_eq!(changed(0, b'A'), Some(FormatError::Frame));
    assert_eq!(changed(9, 2), Some(FormatError::Frame));
    assert_eq!(changed(11, 0), Some(FormatError::Frame));
    assert_eq!(changed(11, 2), Some(FormatError::Frame));
    assert_eq!(changed(10, 2), Some(FormatError::TooLarge("files")));
    assert_eq!(changed(57, 2), Some(FormatError::TooLarge("metadata")));
    assert_eq!(changed(59, 3), Some(FormatError::Frame));
    assert_eq!(changed(63, 1), Some(FormatError::Frame));
    assert_eq!(changed(65, 0), Some(FormatError::Path(0)));
    assert_eq!(changed(79, 2), Some(FormatError::Frame));
    assert_eq!(changed(83, 2), Some(FormatError::Frame));
    assert_eq!(changed(83, 4), Some(FormatError::Frame));
    assert_eq!(
        changed(81, 17),
        Some(FormatError::TooLarge("bytes in all values"))
    );
    assert_eq!(changed(84, 0xff), Some(FormatError::Path(0)));
    for len in 0..good.len() {
        assert!(Contents::parse(&good[..len]).is_err(), "{len}");
    }
    let longer = [good.as_slice(), b"\0"].concat();
    assert_eq!(Contents::parse(&longer).err(), Some(FormatError::Frame));
}

#[test]
fn files_out_of_order_are_refused() {
    let good = sealed_bytes(&[file("a", b""), file("b", b"")], b"");
    let mut bytes = good.clone();
    let paths = 64 + 40;
    bytes[paths..paths + 2].copy_from_slice(b"ba");
    assert_eq!(Contents::parse(&bytes).err(), Some(FormatError::Order(1)));
    assert!(Contents::parse(&good).is_ok());
}

#[test]
fn an_unsealed_memory_file_or_one_of_another_size_is_not_read() {
    let mut writer = MemfdWriter::new("test", 3).unwrap();
    writer.write_all(b"abc").unwrap();
    let sealed = writer.seal().unwrap();
    assert!(PinnedMap::sealed(&sealed, 4).is_err());
    let plain = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&plain, b"abc").unwrap();
    assert!(PinnedMap::sealed(&plain, 3).is_err());
}

proptest! {
    #[test]
    fn noise_never_panics(
        at in 0_usize..100,
        to: u8,
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = sealed_bytes(&[file("a/b", b"xyz"), file("c", b"")], b"{}");
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.extend(tail);
        if let Ok(contents) = Contents::parse(&bytes) {
            let values: usize = contents.files.iter().map(|f| f.value.len()).sum();
            prop_assert!(values <= bytes.len());
        }
    }
}

#[test]
fn generations_are_those_of_the_vectors() {
    run("ipc-generation", true, |given, expected| match expected {
        Expected::Out(out) => check_generation(given, &out),
        Expected::Refused => assert!(Contents::parse(&given.bytes("memfd")).is_err()),
    });
}

fn check_generation(given: &Fields, out: &Fields) {
    let listed = given.list("files");
    let values: Vec<Vec<u8>> = listed.iter().map(|file| file.bytes("value")).collect();
    let files = listed.iter().zip(&values).map(|(file, value)| NewFile {
        path: file.text("path"),
        mode: file.u32("mode").try_into().unwrap(),
        uid: file.u32("uid"),
        gid: (!file.value("gid").is_null()).then(|| file.u32("gid")),
        value,
    });
    let files: Vec<_> = files.collect();
    let generation = Generation {
        incarnation: given.u32("incarnation"),
        seq: given.u64("seq"),
        digest: given.array("digest"),
    };
    let metadata = given.text("metadata").as_bytes();
    let sealed = SealedGeneration::seal(&generation, &files, metadata).unwrap();
    let len = usize::try_from(sealed.memfd_bytes()).unwrap();
    let pinned = PinnedMap::sealed(&sealed, len).unwrap();
    assert_eq!(pinned.as_slice(), out.bytes("memfd"));
    assert_eq!(
        FileSet::of(&files).digest().as_slice(),
        out.bytes("file_set")
    );
    let contents = Contents::parse(pinned.as_slice()).unwrap();
    assert_eq!(contents.generation, generation);
    assert_eq!(contents.metadata, metadata);
    let order: Vec<&str> = contents.files.iter().map(|file| file.path).collect();
    assert_eq!(order, out.texts("order"));
    for file in contents.files {
        let of = files.iter().find(|of| of.path == file.path).unwrap();
        let expected = (of.mode, of.uid, of.gid.unwrap_or(0), of.value);
        assert_eq!((file.mode, file.uid, file.gid, file.value), expected);
    }
}
