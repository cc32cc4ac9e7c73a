//! Tests of the folder source, on a real file system.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::super::testdata::{Issuer, NODE_UID, node, pod};
use super::*;

struct Folder {
    dir: TempDir,
    facts: FolderFacts,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pods/shop")).unwrap();
        fs::create_dir_all(dir.path().join("nodes")).unwrap();
        let facts = FolderFacts::new(dir.path());
        Self { dir, facts }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Renames a record into place, as a writer must.
    fn write(&self, relative: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path("draft"), text).unwrap();
        fs::rename(self.path("draft"), self.path(relative)).unwrap();
    }

    async fn pod(&self) -> Result<Option<Arc<PodObject>>, FactsError> {
        let (namespace, name) = ("shop".parse().unwrap(), "web-0".parse().unwrap());
        self.facts.pod_object(&namespace, &name).await
    }

    async fn uid(&self) -> String {
        self.pod().await.unwrap().unwrap().uid.to_string()
    }
}

fn pod_with_uid(uid: &str) -> String {
    let mut pod = pod();
    pod["metadata"]["uid"] = uid.into();
    pod.to_string()
}

/// Lets the last change be long enough ago that the parsed record is kept.
fn settle(path: &Path) {
    let long_ago = || {
        fs::metadata(path).is_ok_and(|meta| {
            use std::os::unix::fs::MetadataExt;
            let changed = UNIX_EPOCH + Duration::from_secs(meta.ctime().cast_unsigned());
            SystemTime::now()
                .duration_since(changed)
                .is_ok_and(|age| age > Duration::from_millis(1100))
        })
    };
    while !long_ago() {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_renamed_record_is_seen_at_once() {
    let folder = Folder::new();
    assert!(folder.pod().await.unwrap().is_none());
    for n in 0..50 {
        let uid = format!("uid-{n:02}");
        folder.write("pods/shop/web-0.json", pod_with_uid(&uid));
        assert_eq!(folder.uid().await, uid);
    }
    fs::remove_file(folder.path("pods/shop/web-0.json")).unwrap();
    assert!(
        folder.pod().await.unwrap().is_none(),
        "a pod that is gone is not kept"
    );
}

#[tokio::test]
async fn a_record_that_has_not_changed_is_parsed_once() {
    let folder = Folder::new();
    folder.write("pods/shop/web-0.json", pod_with_uid("uid-1"));
    let fresh = (
        folder.pod().await.unwrap().unwrap(),
        folder.pod().await.unwrap().unwrap(),
    );
    assert!(
        !Arc::ptr_eq(&fresh.0, &fresh.1),
        "so soon after its change a record is read again"
    );
    settle(&folder.path("pods/shop/web-0.json"));
    let kept = (
        folder.pod().await.unwrap().unwrap(),
        folder.pod().await.unwrap().unwrap(),
    );
    assert!(Arc::ptr_eq(&kept.0, &kept.1));
    // The same length, the same inode, written in place.
    fs::write(folder.path("pods/shop/web-0.json"), pod_with_uid("uid-2")).unwrap();
    assert_eq!(folder.uid().await, "uid-2");
    folder.write("pods/shop/web-0.json", pod_with_uid("uid-3"));
    assert_eq!(folder.uid().await, "uid-3");
}

#[tokio::test]
async fn yaml_is_read_where_there_is_no_json() {
    let folder = Folder::new();
    let yaml =
        "metadata: {namespace: shop, name: web-0, uid: from-yml}\nspec: {nodeName: node-a}\n";
    folder.write("pods/shop/web-0.yml", yaml);
    assert_eq!(folder.uid().await, "from-yml");
    folder.write(
        "pods/shop/web-0.yaml",
        yaml.replace("from-yml", "from-yaml"),
    );
    assert_eq!(folder.uid().await, "from-yaml");
    folder.write("pods/shop/web-0.json", pod_with_uid("from-json"));
    assert_eq!(folder.uid().await, "from-json");
    for bad in [
        "metadata: &m {namespace: shop, name: web-0, uid: u}\nspec: {}",
        "metadata: {namespace: shop, name: web-0, uid: u, uid: v}\nspec: {}",
        "metadata: {namespace: shop, name: web-0, uid: !x u}\nspec: {}",
        "metadata: {namespace: shop, name: web-0, uid: u}\nspec: {hostPID: yes}",
        "- a\n- b",
        "",
    ] {
        let folder = Folder::new();
        folder.write("pods/shop/web-0.yaml", bad);
        assert!(
            matches!(folder.pod().await, Err(FactsError::Object { .. })),
            "{bad}"
        );
    }
    folder.write("pods/shop/web-0.yaml", [0xff, 0xfe]);
    fs::remove_file(folder.path("pods/shop/web-0.json")).unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::Object { .. })),
        "not UTF-8"
    );
}

#[tokio::test]
async fn links_are_never_followed() {
    let outside = Folder::new();
    outside.write("pods/shop/web-0.json", pod_with_uid("outside"));
    let real = outside.path("pods/shop/web-0.json");

    let folder = Folder::new();
    symlink(&real, folder.path("pods/shop/web-0.json")).unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::Link { .. })),
        "the file is a link"
    );

    let folder = Folder::new();
    fs::remove_dir(folder.path("pods/shop")).unwrap();
    symlink(outside.path("pods/shop"), folder.path("pods/shop")).unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::Link { .. })),
        "its folder is a link"
    );

    let folder = Folder::new();
    folder.write("pods/shop/real.json", pod_with_uid("inside"));
    symlink("real.json", folder.path("pods/shop/web-0.json")).unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::Link { .. })),
        "even one that stays inside"
    );
}

#[tokio::test]
async fn what_is_no_record_is_an_error_that_names_the_file() {
    let folder = Folder::new();
    let name = "pods/shop/web-0.json";
    for bad in ["", "{", "null", "[]", "{\"metadata\":{}}", "\0"] {
        folder.write(name, bad);
        let error = folder.pod().await.unwrap_err();
        assert!(
            matches!(error, FactsError::Object { .. }),
            "{bad:?}: {error}"
        );
        assert!(error.to_string().contains("web-0.json"));
    }
    let whole = pod().to_string();
    let largest = format!("{whole}{}", " ".repeat((1 << 20) - whole.len()));
    folder.write(name, &largest);
    assert!(folder.pod().await.is_ok());
    folder.write(name, largest + " ");
    assert!(matches!(
        folder.pod().await,
        Err(FactsError::TooLarge { .. })
    ));
    for (field, other) in [("name", "web-1"), ("namespace", "other")] {
        let mut pod = pod();
        pod["metadata"][field] = other.into();
        folder.write(name, pod.to_string());
        assert!(
            matches!(folder.pod().await, Err(FactsError::Object { .. })),
            "another {field}"
        );
    }
    fs::remove_file(folder.path(name)).unwrap();
    fs::create_dir(folder.path(name)).unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::NotRegular { .. })),
        "a folder"
    );
    fs::remove_dir(folder.path(name)).unwrap();
    rustix::fs::mknodat(
        CWD,
        folder.path(name),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(
        matches!(folder.pod().await, Err(FactsError::NotRegular { .. })),
        "a pipe does not block"
    );
    fs::remove_file(folder.path(name)).unwrap();
    folder.write(name, &whole);
    let (file, _) = open_beneath(folder.dir.path(), name, &folder.path(name))
        .unwrap()
        .unwrap();
    let flags = rustix::io::fcntl_getfd(&file).unwrap();
    assert!(
        flags.contains(rustix::io::FdFlags::CLOEXEC),
        "no program that is started has it"
    );
    let missing = FolderFacts::new(Path::new("/nonexistent/cluster"));
    let (namespace, name) = ("shop".parse().unwrap(), "web-0".parse().unwrap());
    assert!(matches!(
        missing.pod_object(&namespace, &name).await,
        Err(FactsError::Io { .. })
    ));
}

#[tokio::test]
async fn a_file_is_no_folder_of_records() {
    let folder = Folder::new();
    folder.write("file", "");
    let file = folder.path("file");
    let (namespace, name) = ("shop".parse().unwrap(), "web-0".parse().unwrap());
    match FolderFacts::new(&file).pod_object(&namespace, &name).await {
        Err(FactsError::Io { path, .. }) => assert_eq!(path, file, "it is named itself"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_is_settled_once_more_than_a_tick_has_passed() {
    let stamp = Stamp {
        device: (0, 0),
        inode: 1,
        size: 1,
        modified: (1000, 0),
        changed: (1000, 5),
    };
    let at = |nanoseconds| UNIX_EPOCH + Duration::new(1000, nanoseconds);
    let tick = u32::try_from(TICK.as_nanos()).unwrap();
    assert!(!stamp.is_settled(at(4)), "the clock went back");
    assert!(!stamp.is_settled(at(5 + tick)));
    assert!(stamp.is_settled(at(6 + tick)));
    let before_1970 = Stamp {
        changed: (-1, 0),
        ..stamp
    };
    assert!(!before_1970.is_settled(at(6 + tick)));
}

#[tokio::test]
async fn nodes_and_keys_are_read() {
    let folder = Folder::new();
    let name: NodeName = "node-a".parse().unwrap();
    assert!(folder.facts.node(&name).await.unwrap().is_none());
    folder.write("nodes/node-a.json", node("node-a", NODE_UID).to_string());
    assert_eq!(
        folder
            .facts
            .node(&name)
            .await
            .unwrap()
            .unwrap()
            .uid
            .as_str(),
        NODE_UID
    );
    folder.write("nodes/node-a.json", node("node-b", NODE_UID).to_string());
    assert!(matches!(
        folder.facts.node(&name).await,
        Err(FactsError::Object { .. })
    ));

    assert!(
        matches!(folder.facts.keys(None).await, Err(FactsError::Io { .. })),
        "no keys, no tokens"
    );
    folder.write("jwks.json", Issuer::p256().jwks().to_string());
    assert!(folder.facts.keys(None).await.is_ok());
    let no_list: Value = json!({"keys": {}});
    folder.write("jwks.json", no_list.to_string());
    assert!(matches!(
        folder.facts.keys(None).await,
        Err(FactsError::Keys { .. })
    ));
}
