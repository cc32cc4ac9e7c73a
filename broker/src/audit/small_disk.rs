//! A disk of a test that is as small as it says: a tmpfs of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs, unmounted on drop.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it over a folder, which is made.
    pub(crate) fn mount(dir: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let disk = Self(dir.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", &size(bytes), "tmpfs"]);
        disk
    }

    /// Makes room.
    pub(crate) fn grow(&self, bytes: u64) {
        self.run("mount", &["-o", &format!("remount,{}", size(bytes))]);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let status = Command::new(program).args(args).arg(&self.0).status();
        assert!(status.unwrap().success(), "mounting a tmpfs takes root");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn size(bytes: u64) -> String {
    format!("size={bytes}")
}
