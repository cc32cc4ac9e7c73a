use proptest::prelude::*;

use super::*;
use crate::testing::{field, segment};

fn error<T: std::str::FromStr<Err = NameError> + std::fmt::Debug>(text: &str) -> NameError {
    text.parse::<T>().unwrap_err()
}

proptest! {
    #[test]
    fn a_reference_parses_and_prints_back(
        segments in prop::collection::vec(segment(), 2..=4),
        version in prop::option::of(1u64..),
        field in prop::option::of(field()),
    ) {
        let mut text = segments.join("/");
        if let Some(version) = version {
            text += &format!("@{version}");
        }
        if let Some(field) = &field {
            text += &format!("#{field}");
        }
        let reference: SecretRef = text.parse().unwrap();
        prop_assert_eq!(reference.to_string(), text);
        prop_assert_eq!(reference.path.keyspace.as_str(), &segments[0]);
        prop_assert_eq!(reference.path.name.as_str(), segments[1..].join("/"));
        prop_assert_eq!(reference.version.map(SecretVersion::number), version);
        prop_assert_eq!(reference.field.map(|field| field.to_string()), field);
    }

    #[test]
    fn a_workload_parses_and_prints_back(
        cluster in "@?[a-z0-9][a-z0-9._-]{0,20}", namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        account in "[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?", container in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
    ) {
        let text = format!("{cluster}/{namespace}/{account}/{container}");
        let workload: WorkloadRef = text.parse().unwrap();
        prop_assert_eq!(workload.to_string(), text);
        prop_assert_eq!(matches!(workload.cluster, ClusterRef::Group(_)), cluster.starts_with('@'));
    }

    #[test]
    fn what_parses_prints_back_and_nothing_panics(text in "[a-z0-9A-Z@#/._ é-]{0,20}") {
        if let Ok(reference) = text.parse::<SecretRef>() {
            prop_assert_eq!(reference.to_string(), text.clone());
        }
        if let Ok(workload) = text.parse::<WorkloadRef>() {
            prop_assert_eq!(workload.to_string(), text);
        }
    }
}

#[test]
fn segments_end_at_63_characters_and_fields_at_128() {
    assert!("a".repeat(63).parse::<Keyspace>().is_ok());
    let fault = NameFault::TooLong { limit: 63 };
    assert_eq!(
        error::<Keyspace>(&"a".repeat(64)),
        NameError {
            part: "the keyspace",
            fault
        }
    );
    assert!("_".repeat(128).parse::<FieldName>().is_ok());
    let fault = NameFault::TooLong { limit: 128 };
    assert_eq!(
        error::<FieldName>(&"_".repeat(129)),
        NameError {
            part: "the field",
            fault
        }
    );
}

#[test]
fn each_part_of_a_reference_is_named_in_its_error() {
    for (text, part) in [
        ("payments", "the secret"),
        ("", "the secret"),
        ("/db", "the keyspace"),
        ("Payments/db", "the keyspace"),
        ("payments/", "the name"),
        ("payments//db", "the name"),
        ("payments/a/b/c/d", "the name"),
        ("payments/.db", "the name"),
        ("payments/d b", "the name"),
        ("payments/db/..", "the name"),
        ("payments/db\0", "the name"),
        ("payments/db@", "the version"),
        ("payments/db@0", "the version"),
        ("payments/db@01", "the version"),
        ("payments/db@+1", "the version"),
        ("payments/db@-1", "the version"),
        ("payments/db@18446744073709551616", "the version"),
        ("payments/db@1@2", "the version"),
        ("payments/db#", "the field"),
        ("payments/db#.x", "the field"),
        ("payments/db#-x", "the field"),
        ("payments/db#a/b", "the field"),
        ("payments/db#a#b", "the field"),
        ("payments/db#a@1", "the field"),
        ("payments/db#é", "the field"),
    ] {
        assert_eq!(error::<SecretRef>(text).part, part, "{text}");
    }
}

#[test]
fn a_key_is_a_keyspace_and_an_epoch() {
    let key: KeyRef = "payments@12".parse().unwrap();
    assert_eq!(key.keyspace.as_str(), "payments");
    assert_eq!(
        (key.epoch.get(), key.to_string().as_str()),
        (12, "payments@12")
    );
    for (text, part) in [
        ("payments", "the key"),
        ("", "the key"),
        ("@1", "the keyspace"),
        ("a/b@1", "the keyspace"),
        ("payments@", "the epoch"),
        ("payments@0", "the epoch"),
        ("payments@01", "the epoch"),
        ("payments@+1", "the epoch"),
        ("payments@4294967296", "the epoch"),
        ("payments@1@2", "the epoch"),
    ] {
        assert_eq!(error::<KeyRef>(text).part, part, "{text}");
    }
}

#[test]
fn each_part_of_a_workload_is_named_in_its_error() {
    for (text, part) in [
        ("", "the workload"),
        ("local/shop/web", "the workload"),
        ("local/shop/web/app/x", "the workload"),
        ("Local/shop/web/app", "the cluster"),
        ("@/shop/web/app", "the cluster group"),
        ("@@prod/shop/web/app", "the cluster group"),
        ("local/-shop/web/app", "the namespace"),
        ("local/sh.op/web/app", "the namespace"),
        ("local/shop-/web/app", "the namespace"),
        ("local/shop/we_b/app", "the service account"),
        ("local/shop/web/", "the container"),
        ("local/shop/web/App", "the container"),
        ("local/shop/*/app", "the service account"),
    ] {
        assert_eq!(error::<WorkloadRef>(text).part, part, "{text}");
    }
}

#[test]
fn an_error_says_the_mend_and_not_the_text() {
    let error = error::<SecretRef>("payments/db#hunter2!correct-horse");
    let text = error.to_string();
    assert_eq!(
        text,
        "the field has '!' at character 8: use A-Z, a-z, 0-9 and _, after the first also . -"
    );
    assert!(!text.contains("hunter2"));
}

#[test]
fn the_last_version_has_none_after_it() {
    assert_eq!(SecretVersion::new(0), None);
    assert_eq!(SecretVersion::FIRST.next(), SecretVersion::new(2));
    assert_eq!(SecretVersion::new(u64::MAX).unwrap().next(), None);
    assert_eq!(
        "18446744073709551615".parse(),
        Ok(SecretVersion::new(u64::MAX).unwrap())
    );
}

#[test]
fn uids_are_of_letters_digits_and_dashes() {
    for right in [
        "1f0c2b7e-58a3-4d0c-9c55-0a7d0be2f9a4",
        "0123456789abcdef0123456789abcdef",
        "A1",
    ] {
        assert!(right.parse::<PodUid>().is_ok(), "{right}");
        assert!(right.parse::<NodeUid>().is_ok(), "{right}");
    }
    for wrong in ["", "..", "../x", "a/b", "-a", "a-", "a b", "a\0", "é"] {
        assert_eq!(error::<PodUid>(wrong).part, "the pod's uid", "{wrong:?}");
        assert_eq!(error::<NodeUid>(wrong).part, "the node's uid", "{wrong:?}");
    }
    assert!(matches!(
        error::<PodUid>(&"a".repeat(65)).fault,
        NameFault::TooLong { limit: 64 }
    ));
}

#[test]
fn names_of_kubernetes_keep_to_its_rules() {
    assert!("my.pod-0".parse::<PodName>().is_ok());
    assert!("node-a.example".parse::<NodeName>().is_ok());
    assert_eq!(error::<VolumeName>("a.b").part, "the volume's name");
    assert_eq!(error::<PodName>("a_b").part, "the pod's name");
    assert_eq!(error::<NodeName>("a/b").part, "the node's name");
    assert_eq!(error::<ContainerName>("").fault, NameFault::Empty);
    assert!(matches!(
        error::<PodName>(&"a".repeat(254)).fault,
        NameFault::TooLong { limit: 253 }
    ));
    assert_eq!(error::<GrantName>("Shop").part, "the grant's name");
}

/// `printf %s 1f0c2b7e-58a3-4d0c-9c55-0a7d0be2f9a4secrets | sha256sum`
#[test]
fn a_volume_id_is_kubelets_handle() {
    let pod: PodUid = "1f0c2b7e-58a3-4d0c-9c55-0a7d0be2f9a4".parse().unwrap();
    let volume: VolumeName = "secrets".parse().unwrap();
    let id = VolumeId::of(&pod, &volume);
    assert_eq!(
        id.to_string(),
        "csi-b4eaa8e73df874e75bac5196904f68ef01036f12cf1fc8ca1a84836cfc5fc899"
    );
    assert_eq!(id.to_string().parse(), Ok(id));
}

#[test]
fn a_volume_id_of_another_form_is_refused() {
    let digits = "0".repeat(64);
    for wrong in [
        String::new(),
        digits.clone(),
        format!("csi-{}", &digits[1..]),
        format!("csi-{digits}0"),
        format!("CSI-{digits}"),
        format!("csi-{}G", &digits[1..]),
        format!("csi-{}A", &digits[1..]),
    ] {
        assert_eq!(error::<VolumeId>(&wrong).part, "the volume id", "{wrong}");
    }
}
