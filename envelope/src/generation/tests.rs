use super::*;

fn file(path: &str) -> GenerationFile<'_> {
    GenerationFile {
        path,
        mode: 0o400,
        owner: Owner {
            uid: 1000,
            gid: None,
        },
        value: ValueId::from_bytes([1; 16]),
    }
}

#[test]
fn order_does_not_matter_and_everything_else_does() {
    let one = GenerationDigest::of(&[file("a"), file("b")]).unwrap();
    assert_eq!(GenerationDigest::of(&[file("b"), file("a")]), Ok(one));
    let changed = [
        GenerationFile {
            path: "c",
            ..file("b")
        },
        GenerationFile {
            mode: 0o440,
            ..file("b")
        },
        GenerationFile {
            owner: Owner {
                uid: 1001,
                gid: None,
            },
            ..file("b")
        },
        GenerationFile {
            owner: Owner {
                uid: 1000,
                gid: Some(0),
            },
            ..file("b")
        },
        GenerationFile {
            value: ValueId::from_bytes([2; 16]),
            ..file("b")
        },
    ];
    for other in changed {
        assert_ne!(
            GenerationDigest::of(&[file("a"), other]),
            Ok(one),
            "{other:?}"
        );
    }
    assert_ne!(GenerationDigest::of(&[file("a")]), Ok(one));
}

#[test]
fn two_files_of_one_path_are_refused() {
    assert!(matches!(
        GenerationDigest::of(&[file("a"), file("b"), file("a")]),
        Err(EnvelopeError::Rule(_))
    ));
}
