//! What this mount namespace has mounted, read from mountinfo.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// One line of /proc/self/mountinfo (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while mounted.
    pub id: u64,
    /// Where.
    pub point: PathBuf,
    /// Per-mount options.
    pub options: String,
    /// `tmpfs` and so on.
    pub kind: String,
    /// What the mounter named as its source.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

/// Every mount at or below `root`.
///
/// # Errors
/// When mountinfo cannot be read or has another shape.
pub fn below(root: &Path) -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts = Vec::new();
    for line in text.lines() {
        let mount = parse(line).with_context(|| format!("mountinfo line {line:?}"))?;
        if mount.point.starts_with(root) {
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut after = after.split(' ');
    Some(Mount {
        id: before.first()?.parse().ok()?,
        point: PathBuf::from(before.get(4)?.replace("\\040", " ")),
        options: (*before.get(5)?).to_owned(),
        kind: after.next()?.to_owned(),
        source: after.next()?.to_owned(),
        super_options: after.next()?.to_owned(),
    })
}
