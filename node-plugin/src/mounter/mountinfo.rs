//! The mount table of this process (proc(5), `/proc/PID/mountinfo`), and which of its lines are volumes of ours.
//!
//! After a restart this table is all that the mounter knows. Its text comes from the kernel, but mount points and
//! sources were named by others: a line counts as ours only when everything in it agrees.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::error::MountError;
use crate::volume::Target;

/// The table as it was read.
pub(super) struct MountInfo(Vec<u8>);

/// One line.
pub(super) struct Mount {
    /// The mount's id, as statx tells it.
    pub(super) id: u64,
    /// The folder of the file system that is mounted.
    root: Vec<u8>,
    /// Where.
    point: Vec<u8>,
    /// The file system's type.
    kind: Vec<u8>,
    /// Its source.
    pub(super) source: Vec<u8>,
}

/// Reads the table.
pub(super) fn read() -> Result<MountInfo, MountError> {
    let failed = |error: std::io::Error| MountError::Os {
        call: "read(/proc/self/mountinfo)",
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    std::fs::read("/proc/self/mountinfo")
        .map(MountInfo)
        .map_err(failed)
}

impl MountInfo {
    /// The lines that can be read.
    pub(super) fn mounts(&self) -> impl Iterator<Item = Mount> {
        self.0.split(|b| *b == b'\n').filter_map(Mount::parse)
    }

    /// Our volumes under `kubelet_dir`, in order, each once.
    pub(super) fn volumes(&self, kubelet_dir: &Path) -> Vec<Target> {
        let mut volumes: Vec<Target> = self
            .mounts()
            .filter(|mount| mount.is_tmpfs())
            .filter_map(|mount| mount.volume(kubelet_dir))
            .collect();
        volumes.sort();
        volumes.dedup();
        volumes
    }
}

impl Mount {
    /// Parses `id parent dev root point options tags... - type source options`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let mut fields = fields.skip(2);
        let root = unescape(fields.next()?);
        let point = unescape(fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = unescape(fields.next()?);
        let source = unescape(fields.next()?);
        Some(Self {
            id,
            root,
            point,
            kind,
            source,
        })
    }

    /// It is a tmpfs.
    pub(super) fn is_tmpfs(&self) -> bool {
        self.kind == b"tmpfs"
    }

    /// All of its file system is mounted, not a folder of it.
    pub(super) fn is_whole(&self) -> bool {
        self.root == b"/"
    }

    /// The volume that is mounted here, if the source is the id of the volume that this place belongs to.
    fn volume(&self, kubelet_dir: &Path) -> Option<Target> {
        if !self.is_whole() {
            return None;
        }
        let point = OsStr::from_bytes(&self.point).to_str()?;
        let target = Target::from_path(kubelet_dir, point).ok()?;
        (self.source == target.volume_id().to_string().as_bytes()).then_some(target)
    }
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .first_chunk::<3>()
            .filter(|_| *first == b'\\')
            .and_then(|digits| octal(*digits));
        match digits {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2ed5e2-2f7c-4a41-93a3-5d4bb1d6e8f0";

    fn volumes(line: &str) -> Vec<Target> {
        MountInfo(line.as_bytes().to_vec()).volumes(Path::new("/var/lib/my kubelet"))
    }

    fn line(root: &str, point: &str, kind: &str, source: &str) -> String {
        format!(
            "641 29 0:57 {root} {point} rw,nosuid,nodev,noexec shared:301 master:2 - {kind} {source} rw,size=16384k\n"
        )
    }

    #[test]
    fn a_volume_is_ours_only_when_type_place_and_source_agree() {
        let path =
            format!("/var/lib/my kubelet/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount");
        let target = Target::from_path(Path::new("/var/lib/my kubelet"), &path).unwrap();
        let id = target.volume_id().to_string();
        let point = path.replace(' ', "\\040");
        let other = point.replace("secrets", "others");

        assert_eq!(
            volumes(&line("/", &point, "tmpfs", &id)),
            std::slice::from_ref(&target)
        );
        let twice = line("/", &point, "tmpfs", &id).repeat(2);
        assert_eq!(volumes(&twice), [target]);
        for foreign in [
            line("/", &point, "ext4", &id),
            line("/", &point, "tmpfs", "tmpfs"),
            line("/", &other, "tmpfs", &id),
            line("/db", &point, "tmpfs", &id),
            line("/", &format!("{point}/x"), "tmpfs", &id),
            line("/", &point.replace("\\040", ""), "tmpfs", &id),
            String::new(),
            "641 29 0:57 / /x rw\n".to_owned(),
            "x 29 0:57 / /x rw - tmpfs a rw\n".to_owned(),
        ] {
            assert_eq!(volumes(&foreign), [], "{foreign}");
        }
    }

    #[test]
    fn optional_tags_may_be_missing() {
        let text = MountInfo(b"22 1 0:20 / /proc rw - proc proc rw\n".to_vec());
        let mounts: Vec<_> = text
            .mounts()
            .map(|mount| (mount.id, mount.point, mount.kind))
            .collect();
        assert_eq!(mounts, [(22, b"/proc".to_vec(), b"proc".to_vec())]);
    }

    #[test]
    fn escapes_are_undone_and_what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\040b\\011\\012\\134\\043"), b"a b\t\n\\#");
        for text in [&b"\\"[..], b"\\04", b"\\08x", b"a\\"] {
            assert_eq!(unescape(text), text);
        }
    }
}
