//! What this mount namespace has mounted, read from mountinfo.

use std::{
    collections::BTreeSet,
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

impl Mount {
    /// It is a volume of the node plugin's, below this folder of pods.
    #[must_use]
    pub fn is_volume_below(&self, pods: &Path) -> bool {
        self.kind == "tmpfs" && self.source.starts_with("csi-") && self.point.starts_with(pods)
    }
}

/// Every mount at or below `root`.
///
/// # Errors
/// When mountinfo cannot be read or has another shape.
pub fn below(root: &Path) -> Result<Vec<Mount>> {
    let mut mounts = table(Path::new("/proc/self/mountinfo"))?;
    mounts.retain(|mount| mount.point.starts_with(root));
    Ok(mounts)
}

/// Every mount that a process sees.
///
/// # Errors
/// When it is gone.
pub fn seen_by(pid: u32) -> Result<Vec<Mount>> {
    table(&PathBuf::from(format!("/proc/{pid}/mountinfo")))
}

/// The mounts with one of these sources in any mount namespace of this machine, each namespace once.
///
/// # Errors
/// When the processes cannot be listed.
pub fn anywhere(sources: &[String]) -> Result<Vec<Mount>> {
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for process in fs::read_dir("/proc")?.flatten() {
        // Whoever has ended meanwhile keeps no namespace.
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else {
            continue;
        };
        if seen.insert(namespace) {
            let mounts = table(&process.path().join("mountinfo")).unwrap_or_default();
            found.extend(mounts.into_iter().filter(|m| sources.contains(&m.source)));
        }
    }
    Ok(found)
}

/// The descriptors of a process that lie on a mount which is mounted nowhere: a detached mount lives on by them.
///
/// # Errors
/// When the process is gone.
pub fn detached(pid: u32) -> Result<Vec<PathBuf>> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mounted: BTreeSet<u64> = table(&process.join("mountinfo"))?
        .iter()
        .map(|mount| mount.id)
        .collect();
    let mut found = Vec::new();
    for fd in fs::read_dir(process.join("fd"))?.flatten() {
        let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name()));
        let (Ok(path), Ok(info)) = (fs::read_link(fd.path()), info) else {
            continue;
        };
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        let id = id.and_then(|id| id.trim().parse().ok());
        // Sockets, pipes and memory files lie on mounts of the kernel's own.
        let of_a_file = path.is_absolute() && !path.to_string_lossy().starts_with("/memfd:");
        if of_a_file && id.is_some_and(|id| !mounted.contains(&id)) {
            found.push(path);
        }
    }
    Ok(found)
}

fn table(file: &Path) -> Result<Vec<Mount>> {
    let text = fs::read_to_string(file)?;
    let parse = |line: &str| parse(line).with_context(|| format!("mountinfo line {line:?}"));
    text.lines().map(parse).collect()
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
