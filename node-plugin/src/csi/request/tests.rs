use csi::volume_capability::{AccessMode, BlockVolume};
use proptest::prelude::*;

use super::*;
use crate::csi::attributes::{KNOWN, MAX_VALUE_BYTES};
use crate::csi::token::TOKENS;

const KUBELET: &str = "/var/lib/kubelet";
const POD: &str = "0b2ed5e2-2f7c-4a41-93a3-5d4bb1d6e8f0";
const TOKEN: &str = "canary.5e6f.token";

fn expected() -> Expected<'static> {
    Expected {
        kubelet_dir: Path::new(KUBELET),
        audience: "attache",
    }
}

fn target() -> Target {
    Target::from_path(Path::new(KUBELET), &path()).unwrap()
}

fn path() -> String {
    format!("{KUBELET}/pods/{POD}/volumes/kubernetes.io~csi/secrets/mount")
}

fn tokens() -> String {
    format!(r#"{{"attache":{{"token":"{TOKEN}","expirationTimestamp":"2100-01-01T00:00:00Z"}}}}"#)
}

fn good() -> csi::NodePublishVolumeRequest {
    let context = [
        ("container", "app"),
        ("secrets", "payments/db"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", POD),
        ("csi.storage.k8s.io/serviceAccount.name", "web"),
        ("csi.storage.k8s.io/ephemeral", "true"),
    ];
    csi::NodePublishVolumeRequest {
        volume_id: target().volume_id().to_string(),
        target_path: path(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        secrets: [(TOKENS.to_owned(), tokens())].into(),
        volume_context: context
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    }
}

fn parse(
    bend: impl FnOnce(&mut csi::NodePublishVolumeRequest),
) -> Result<PublishRequest, RequestError> {
    let mut request = good();
    bend(&mut request);
    PublishRequest::parse(request, expected())
}

fn refused(bend: impl FnOnce(&mut csi::NodePublishVolumeRequest)) -> String {
    let message = parse(bend).err().expect("must be refused").to_string();
    assert!(!message.contains("canary"), "{message}");
    message
}

/// Sets one entry of the volume context.
fn context(key: &str, value: &str) -> String {
    refused(|request| drop(request.volume_context.insert(key.into(), value.into())))
}

fn mount(request: &mut csi::NodePublishVolumeRequest) -> &mut MountVolume {
    match &mut request.volume_capability.as_mut().unwrap().access_type {
        Some(AccessType::Mount(mount)) => mount,
        _ => panic!("a mount"),
    }
}

#[test]
fn kubelets_request_parses() {
    let request = parse(|request| {
        request.readonly = true;
        mount(request).volume_mount_group = "4000".into();
        mount(request).fs_type = "tmpfs".into();
    })
    .unwrap();
    assert_eq!(request.target, target());
    assert_eq!(request.mount_group, Some(4000));
    assert_eq!(request.token.expose(), TOKEN);
    assert_eq!(request.pod.service_account.as_str(), "web");
    let mut names: Vec<&str> = request.attributes.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["container", "secrets"],
        "kubelet's own keys stay behind"
    );
    assert_eq!(parse(|_| {}).unwrap().mount_group, None);
}

#[test]
fn the_summary_is_names_and_ids_alone() {
    let request = parse(|request| {
        drop(
            request
                .volume_context
                .insert("secrets".into(), "canary-attribute".into()),
        );
    })
    .unwrap();
    let summary = request.summary().to_string();
    assert_eq!(
        summary,
        format!("volume secrets of pod shop/web-0 ({POD}), service account web")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of fields")]
fn every_field_is_refused_by_its_name() {
    let long = "x".repeat(70_000);
    type Bend<'a> = Box<dyn FnOnce(&mut csi::NodePublishVolumeRequest) + 'a>;
    let cases: Vec<(&str, Bend<'_>)> = vec![
        ("volume_id", Box::new(|r| r.volume_id.clear())),
        ("volume_id", Box::new(|r| r.volume_id = "csi-xyz".into())),
        (
            "volume_id",
            Box::new(|r| r.volume_id = format!("csi-{}", "0".repeat(64))),
        ),
        ("volume_id", Box::new(|r| r.volume_id = long.clone())),
        ("target_path", Box::new(|r| r.target_path.clear())),
        ("target_path", Box::new(|r| r.target_path = "/etc".into())),
        (
            "target_path",
            Box::new(|r| r.target_path.push_str("/../..")),
        ),
        ("target_path", Box::new(|r| r.target_path.push('\0'))),
        (
            "target_path",
            Box::new(|r| r.target_path = format!("{KUBELET}/{long}")),
        ),
        (
            "staging_target_path",
            Box::new(|r| r.staging_target_path = "/s".into()),
        ),
        (
            "publish_context",
            Box::new(|r| drop(r.publish_context.insert("a".into(), "b".into()))),
        ),
        (
            "volume_capability",
            Box::new(|r| r.volume_capability = None),
        ),
        (
            "volume_capability.access_mode",
            Box::new(|r| r.volume_capability.as_mut().unwrap().access_mode = None),
        ),
        (
            "volume_capability.access_mode",
            Box::new(|r| {
                r.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode: 0 })
            }),
        ),
        (
            "volume_capability.access_mode",
            Box::new(|r| {
                r.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode: 99 })
            }),
        ),
        (
            "volume_capability.mount",
            Box::new(|r| r.volume_capability.as_mut().unwrap().access_type = None),
        ),
        (
            "volume_capability.block",
            Box::new(|r| {
                r.volume_capability.as_mut().unwrap().access_type =
                    Some(AccessType::Block(BlockVolume {}));
            }),
        ),
        (
            "volume_capability.mount.fs_type",
            Box::new(|r| mount(r).fs_type = "ext4".into()),
        ),
        (
            "volume_capability.mount.mount_flags",
            Box::new(|r| mount(r).mount_flags.push("exec".into())),
        ),
        ("secrets", Box::new(|r| r.secrets.clear())),
        (
            "secrets",
            Box::new(|r| drop(r.secrets.insert("password".into(), "canary".into()))),
        ),
    ];
    for (field, bend) in cases {
        let message = refused(bend);
        assert!(
            message.starts_with(&format!("{field} ")),
            "{field}: {message}"
        );
        assert!(
            message.len() <= 1024 && !message.contains(char::is_control),
            "{message}"
        );
    }
}

#[test]
fn a_mount_group_is_decimal_digits() {
    for bad in [
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x10",
        "four",
        "4294967295",
        "4294967296",
        "99999999999",
        "1\0",
    ] {
        let message = refused(|request| mount(request).volume_mount_group = bad.into());
        assert!(
            message.starts_with("volume_capability.mount.volume_mount_group "),
            "{bad}: {message}"
        );
    }
    for (good, gid) in [("0", 0), ("007", 7), ("4294967294", u32::MAX - 1)] {
        let parsed = parse(|request| mount(request).volume_mount_group = good.into()).unwrap();
        assert_eq!(parsed.mount_group, Some(gid));
    }
}

#[test]
fn an_unknown_attribute_is_named_with_the_nearest_known_one() {
    for (unknown, nearest) in [
        ("contianer", "container"),
        ("secret", "secrets"),
        ("file", "files"),
        ("Layout", "layout"),
        ("csi.storage.k8s.io/pod.Name", ""),
        ("", ""),
    ] {
        let message = context(unknown, "canary");
        assert!(
            message.contains(&format!("unknown attribute \"{unknown}\"")),
            "{message}"
        );
        assert!(
            message.contains(&format!("is {nearest}")),
            "{unknown}: {message}"
        );
    }
    let message = context("uid", "1000");
    assert!(
        message.starts_with("volumeAttributes.uid ") && message.contains("runAsUser"),
        "{message}"
    );
    let message = context(&format!("a\n\0{}", "é".repeat(4096)), "canary");
    assert!(
        message.len() < 300 && !message.contains(char::is_control),
        "{message}"
    );
}

#[test]
fn attributes_and_pod_info_are_bounded_and_there() {
    for name in KNOWN {
        let message = context(name, &"x".repeat(MAX_VALUE_BYTES + 1));
        assert!(
            message.starts_with(&format!("volumeAttributes.{name} ")),
            "{message}"
        );
        let message = context(name, "a\0b");
        assert!(
            message.starts_with(&format!("volumeAttributes.{name} ")),
            "{message}"
        );
    }
    for gone in ["", "container"] {
        let message = refused(|request| {
            request
                .volume_context
                .insert("container".into(), String::new());
            request.volume_context.remove(gone);
        });
        assert!(
            message.starts_with("volumeAttributes.container "),
            "{message}"
        );
    }
    for name in [
        "pod.name",
        "pod.namespace",
        "pod.uid",
        "serviceAccount.name",
    ] {
        let key = format!("csi.storage.k8s.io/{name}");
        for bad in ["", "-x-", "a b", "ä", "x\0", &"x".repeat(300)] {
            let message = context(&key, bad);
            assert!(
                message.starts_with(&format!("volume_context[{key}] ")),
                "{bad}: {message}"
            );
        }
        let message = refused(|request| drop(request.volume_context.remove(&key)));
        assert!(message.contains("podInfoOnMount"), "{message}");
    }
    for bad in ["false", "True", ""] {
        let message = context("csi.storage.k8s.io/ephemeral", bad);
        assert!(
            message.contains("csi.storage.k8s.io/ephemeral") && message.contains("Ephemeral"),
            "{message}"
        );
    }
    let message = context("csi.storage.k8s.io/pod.uid", "another-pod");
    assert!(message.contains("names another pod"), "{message}");
}

#[test]
fn the_token_comes_from_secrets_or_from_kubelet_before_that_and_never_from_both() {
    let moved = parse(|request| {
        request.secrets.clear();
        request.volume_context.insert(TOKENS.into(), tokens());
    });
    assert_eq!(moved.unwrap().token.expose(), TOKEN);
    let message = context(TOKENS, &tokens());
    assert!(message.contains("not kubelet's"), "{message}");
    // Beside a request that is wrong otherwise, the token is still not told.
    let both = refused(|request| {
        request.volume_context.insert(TOKENS.into(), tokens());
        request
            .volume_context
            .insert("nonsense".into(), "canary".into());
    });
    assert!(both.contains("nonsense"), "{both}");
}

#[test]
fn malformed_tokens_are_refused_and_not_repeated() {
    let with = |json: String| refused(|request| drop(request.secrets.insert(TOKENS.into(), json)));
    for bad in [
        String::new(),
        "canary".to_owned(),
        "[]".to_owned(),
        r#"{"attache":"canary"}"#.to_owned(),
        r#"{"attache":{}}"#.to_owned(),
        r#"{"attache":{"token":7}}"#.to_owned(),
        r#"{"attache":{"token":null}}"#.to_owned(),
        r#"{"attache":{"token":""}}"#.to_owned(),
        r#"{"attache":{"token":"canary token"}}"#.to_owned(),
        r#"{"attache":{"token":"canary\u0000"}}"#.to_owned(),
        format!(r#"{{"attache":{{"token":"{}"}}}}"#, "x".repeat(17_000)),
        format!("{} trailing", tokens()),
    ] {
        let message = with(bad.clone());
        assert!(
            message.starts_with(&format!("secrets[{TOKENS}] ")),
            "{bad}: {message}"
        );
    }
    let other = with(tokens().replace("attache", "vault"));
    assert!(
        other.contains("audience attache") && other.contains("tokenRequests"),
        "{other}"
    );
}

#[test]
fn what_is_to_be_gone_or_looked_at_is_named_as_strictly() {
    let (volume_id, target_path) = (target().volume_id().to_string(), path());
    let unpublish = |volume_id: &str, target_path: &str| {
        let (volume_id, target_path) = (volume_id.to_owned(), target_path.to_owned());
        parse_unpublish(
            &csi::NodeUnpublishVolumeRequest {
                volume_id,
                target_path,
            },
            expected(),
        )
    };
    assert_eq!(unpublish(&volume_id, &target_path), Ok(target()));
    for (id, path, field) in [
        ("", target_path.as_str(), "volume_id"),
        ("x", &target_path, "volume_id"),
        (&volume_id, "", "target_path"),
        (&volume_id, "/", "target_path"),
    ] {
        assert!(
            unpublish(id, path)
                .unwrap_err()
                .to_string()
                .starts_with(field)
        );
    }
    let stats = |volume_id: &str, volume_path: &str| {
        let (volume_id, volume_path) = (volume_id.to_owned(), volume_path.to_owned());
        let staging_target_path = String::new();
        parse_stats(
            &csi::NodeGetVolumeStatsRequest {
                volume_id,
                volume_path,
                staging_target_path,
            },
            expected(),
        )
    };
    assert_eq!(stats(&volume_id, &target_path), Ok(Some(target())));
    assert_eq!(stats("some-volume", "some/path"), Ok(None));
    assert!(
        stats("", &target_path)
            .unwrap_err()
            .to_string()
            .starts_with("volume_id")
    );
    assert!(
        stats(&volume_id, "")
            .unwrap_err()
            .to_string()
            .starts_with("volume_path")
    );
}

proptest! {
    /// Whatever a pod's author writes, nothing of it is taken that is not known, and it stays on one line.
    #[test]
    fn a_hostile_context_never_passes(name in "\\PC{0,40}|[a-z./-]{1,20}", value in "\\PC{0,60}") {
        prop_assume!(!KNOWN.contains(&name.as_str()) && !name.starts_with("csi.storage.k8s.io/"));
        let message = context(&name, &format!("canary{value}"));
        prop_assert!(message.len() <= 1024 && !message.contains(char::is_control), "{message}");
    }

    #[test]
    fn a_hostile_path_never_passes(tail in "[./a~\\PC]{0,30}") {
        prop_assume!(!tail.is_empty());
        let parsed = parse(|request| request.target_path.push_str(&tail));
        prop_assert!(parsed.is_err());
    }
}
