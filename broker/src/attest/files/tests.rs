//! Tests of paths and of the layout of a volume.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn workload() -> WorkloadRef {
    "local/shop/web/app".parse().unwrap()
}

fn wanted(references: &[&str], place: &Place) -> WantedFiles {
    let wanted = references.iter().map(|reference| Wanted {
        reference: reference.parse().unwrap(),
        place: place.clone(),
        optional: false,
    });
    WantedFiles {
        wanted: wanted.collect(),
        mode: Mode::Owner,
    }
}

fn available(fields: &[&str]) -> Available {
    let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
    Available {
        fields,
        true_reason: "absent".into(),
    }
}

fn paths(plan: &FilePlan) -> Vec<&str> {
    plan.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_path_is_relative_and_canonical() {
    let (long, whole) = ("a".repeat(256), "a".repeat(255));
    let deep = "a/".repeat(8) + "a";
    for (text, expected) in [
        ("", PathError::Length),
        ("/a", PathError::Absolute),
        ("/", PathError::Absolute),
        ("//a", PathError::Absolute),
        ("a//b", PathError::EmptyPart),
        ("a/", PathError::EmptyPart),
        (".", PathError::Dots),
        ("a/./b", PathError::Dots),
        ("..", PathError::Dots),
        ("a/../../b", PathError::Dots),
        ("..data", PathError::Dots),
        ("a/..2026", PathError::Dots),
        ("...", PathError::Dots),
        (".attache.json", PathError::Reserved),
        (".attache.json/a", PathError::Reserved),
        ("a\0b", PathError::Control),
        ("a\nb", PathError::Control),
        ("a\u{7f}", PathError::Control),
        ("a\u{2028}b", PathError::Control),
        (long.as_str(), PathError::PartLength),
        (deep.as_str(), PathError::Depth),
    ] {
        assert_eq!(FilePath::parse(text), Err(expected), "{text:?}");
    }
    let four_kib = "a/".repeat(2048);
    assert_eq!(FilePath::parse(&four_kib), Err(PathError::Length));
    let deepest = "a/".repeat(7) + "a";
    let longest = format!("{}aaaa", format!("{}/", "a".repeat(254)).repeat(4));
    assert_eq!(longest.len(), MAX_PATH_BYTES);
    let too_long = format!("{longest}a");
    assert_eq!(FilePath::parse(&too_long), Err(PathError::Length));
    for good in [
        deepest.as_str(),
        longest.as_str(),
        "a",
        "db/password",
        ".hidden",
        "a.b-c_d",
        "a/.attache.json",
        ".a..b",
        "ä b",
        "a\\b",
        whole.as_str(),
    ] {
        assert_eq!(FilePath::parse(good).unwrap().as_str(), good);
    }
}

#[test]
fn a_mode_is_its_bits_and_prints_as_it_is_written() {
    for (mode, bits, text) in [
        (Mode::Owner, 0o400, "0400"),
        (Mode::OwnerAndGroup, 0o440, "0440"),
    ] {
        assert_eq!((mode.bits(), mode.to_string().as_str()), (bits, text));
    }
}

#[test]
fn each_field_is_a_file_in_its_secrets_folder() {
    let wanted = wanted(&["payments/db", "payments/eu/api"], &Place::Folder);
    let fields = [available(&["username", "password"]), available(&["token"])];
    let plan = plan_files(&wanted, &workload(), &fields).unwrap();
    assert_eq!(paths(&plan), ["api/token", "db/password", "db/username"]);
    assert_eq!(plan.files[0].wanted, 1);
    assert!(plan.missing.is_empty());
}

#[test]
fn flat_puts_the_fields_side_by_side() {
    let wanted = wanted(&["payments/db", "web/tls"], &Place::Root);
    let plan = plan_files(
        &wanted,
        &workload(),
        &[available(&["password"]), available(&["key"])],
    )
    .unwrap();
    assert_eq!(paths(&plan), ["key", "password"]);
    let both = [available(&["a", "password"]), available(&["password"])];
    let line = plan_files(&wanted, &workload(), &both)
        .unwrap_err()
        .public()
        .line();
    assert_eq!(
        line,
        "payments/db and web/tls would share the path \"password\"; give each file a path of its own in volumeAttributes.files"
    );
}

#[test]
fn absent_and_not_granted_read_the_same_and_optional_covers_both() {
    let mut wanted = wanted(&["payments/db"], &Place::Folder);
    let lines = ["absent", "no grant permits it"].map(|why| {
        let nothing = [Available {
            fields: vec![],
            true_reason: why.into(),
        }];
        let refusal = plan_files(&wanted, &workload(), &nothing).unwrap_err();
        assert_eq!(refusal.true_reason(), why);
        refusal.public().line()
    });
    assert_eq!(
        lines[0],
        "no grant lets local/shop/web/app read payments/db"
    );
    assert_eq!(lines[0], lines[1]);
    assert!(
        plan_files(&wanted, &workload(), &[]).is_err(),
        "no answer is no grant"
    );
    wanted.wanted[0].optional = true;
    let plan = plan_files(&wanted, &workload(), &[available(&[])]).unwrap();
    assert!(plan.files.is_empty());
    assert_eq!(plan.missing[0].to_string(), "payments/db");
}

#[test]
fn a_volume_has_at_most_256_files() {
    let many: Vec<String> = (0..257).map(|n| format!("f{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wanted = wanted(&["payments/db"], &Place::Folder);
    assert!(plan_files(&wanted, &workload(), &[available(&many[..256])]).is_ok());
    let line = plan_files(&wanted, &workload(), &[available(&many)])
        .unwrap_err()
        .public()
        .line();
    assert!(
        line.starts_with("the volume would have 257 files and may have 256"),
        "{line}"
    );
}

proptest! {
    /// What is accepted as a path stays within its folder, as the standard library sees it too.
    #[test]
    fn a_path_has_only_normal_parts(text in "[a-c./\\\\]{0,12}|\\PC{0,40}") {
        if let Ok(path) = FilePath::parse(&text) {
            let path = std::path::Path::new(path.as_str());
            let normal = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            prop_assert!(normal, "{:?}", path);
            prop_assert_eq!(path.components().count(), text.split('/').count());
        }
    }

    /// A plan is sorted, has no path twice and none that is also a folder; it holds what is available, or nothing.
    #[test]
    fn a_plan_keeps_its_rules(
        entries in prop::collection::vec(("[ab]{1,2}(/[ab]{1,2}){0,2}", any::<bool>()), 1..8),
    ) {
        let wanted = WantedFiles {
            wanted: entries.iter().map(|(path, optional)| Wanted {
                reference: "payments/db#x".parse().unwrap(),
                place: Place::File { path: FilePath::parse(path).unwrap(), mode: Mode::Owner },
                optional: *optional,
            }).collect(),
            mode: Mode::Owner,
        };
        let answers: Vec<Available> = entries.iter().map(|_| available(&["x"])).collect();
        let paths: BTreeSet<&str> = entries.iter().map(|(path, _)| path.as_str()).collect();
        let twice = paths.len() != entries.len();
        let folder = paths.iter().any(|path| paths.iter().any(|other| other.starts_with(&format!("{path}/"))));
        match plan_files(&wanted, &workload(), &answers) {
            Ok(plan) => {
                prop_assert!(!twice && !folder);
                prop_assert_eq!(plan.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), paths.into_iter().collect::<Vec<_>>());
            }
            Err(refusal) => {
                let shared = matches!(refusal.public(), PublicReason::SharedPath { .. });
                prop_assert!((twice || folder) && shared, "{}", refusal);
            }
        }
    }
}
