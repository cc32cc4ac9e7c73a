//! What the verbs' tests cannot tell apart: how files are opened, and what is remembered.

use rustix::io::{FdFlags, fcntl_getfd};

use super::super::tests::Kubelet;
use super::*;

#[test]
fn kubelets_folder_is_a_folder() {
    let kubelet = Kubelet::new();
    let file = kubelet.path().join("file");
    std::fs::write(&file, "").unwrap();
    let Err(MountError::Os { source, .. }) = KubeletDir::open(&file) else {
        panic!("a file was taken for a folder")
    };
    assert_eq!(source, Errno::NOTDIR);
}

#[test]
fn no_open_folder_is_inherited() {
    let kubelet = Kubelet::new();
    let target = kubelet.volume("secrets");
    kubelet.volumes().attach(&target).unwrap();
    let dir = KubeletDir::open(kubelet.path()).unwrap();
    let folder = dir.volume(&target).unwrap();
    let mounted = folder.mounted().unwrap();
    let root = mounted.root().unwrap();
    for fd in [&dir.fd, &folder.fd, &mounted.fd, &root] {
        assert_eq!(fcntl_getfd(fd).unwrap(), FdFlags::CLOEXEC);
    }
}

#[test]
fn a_volume_has_the_mount_on_top_of_its_mount_point_and_no_other() {
    let kubelet = Kubelet::new();
    let volumes = kubelet.volumes();
    let (one, other) = (kubelet.volume("one"), kubelet.volume("other"));
    let dir = KubeletDir::open(kubelet.path()).unwrap();
    let (one_folder, other_folder) = (dir.volume(&one).unwrap(), dir.volume(&other).unwrap());
    volumes.attach(&one).unwrap();
    let mount = one_folder.mounted().unwrap().id;
    assert!(one_folder.has(mount).unwrap());
    assert!(!other_folder.has(mount).unwrap(), "there is no folder");
    volumes.attach(&other).unwrap();
    assert!(!other_folder.has(mount).unwrap(), "it is the other's");
}

#[test]
fn a_mount_that_was_made_for_a_volume_is_remembered_until_it_is_unmounted() {
    let kubelet = Kubelet::new();
    let target = kubelet.volume("secrets");
    kubelet.volumes().attach(&target).unwrap();
    let dir = KubeletDir::open(kubelet.path()).unwrap();
    let folder = dir.volume(&target).unwrap();
    let mounted = folder.mounted().unwrap();
    assert!(dir.known.are(mounted.id, folder.id), "seen");
    dir.known.forget(mounted.id);
    folder.learn(mounted.id);
    assert!(dir.known.are(mounted.id, folder.id), "made");
    folder.unmount(&mounted).unwrap();
    assert!(!dir.known.are(mounted.id, folder.id), "gone");
}
