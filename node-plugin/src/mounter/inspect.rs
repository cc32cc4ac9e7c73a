//! What lies in a mounted volume: read back from the mount itself, entry by entry.
//!
//! A volume is **whole** when `..data` names a generation, the root holds nothing but that folder and one link for
//! each of its top entries, and every folder, file and link is of the kind that this plugin writes: folders root's
//! and 0555, files with read bits at most, links to `..data/NAME`, all of it immutable. What was set aside until it
//! can be removed does not count, as long as it is closed. Whatever differs makes it not whole, which the next write
//! mends; only a failed system call is an error, and none that a container can bring about. It is **complete** while a
//! reader does not notice: a change that was cut short leaves the root thawed, or something beside the present generation.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, readlinkat, statx,
};
use rustix::io::Errno;

use super::error::MountError;
use super::folder::{Root, is_aside, names, open_folder};
use crate::ipc::generation::{MAX_DEPTH, METADATA_NAME};
use crate::ipc::{FileSet, FolderName, VolumeStat};

/// The link to the present generation.
pub(super) const DATA: &CStr = c"..data";

/// What was found in a volume.
pub(super) struct Contained {
    pub(super) stat: VolumeStat,
    /// `.attache.json` of the present generation.
    pub(super) metadata: Option<OwnedFd>,
}

/// Reads a volume back.
pub(super) fn inspect(root: &Root) -> Result<Contained, MountError> {
    let mut contained = Contained {
        stat: VolumeStat {
            mounted: true,
            ..VolumeStat::default()
        },
        metadata: None,
    };
    let Some(name) = present(root)? else {
        return Ok(contained);
    };
    let folder = match open_folder(root.as_fd(), &folder_name(name)) {
        Ok(folder) => folder,
        Err(MountError::Os {
            source: Errno::NOENT | Errno::LOOP | Errno::NOTDIR,
            ..
        }) => return Ok(contained),
        Err(error) => return Err(error),
    };
    let mut walk = Walk {
        inode_flags: root.inode_flags(),
        sound: true,
        files: Vec::new(),
    };
    walk.folder(root.as_fd())?;
    let root_is_sound = std::mem::replace(&mut walk.sound, true);
    let top = walk.tree(folder.as_fd(), "", 0)?;
    let links = walk.links(root, &top, name)?;
    walk.files.sort();
    let mut set = FileSet::default();
    for file in &walk.files {
        set.add(
            file.path.as_bytes(),
            file.mode,
            (file.uid, file.gid),
            file.size,
        );
    }
    contained.stat.generation = Some(name);
    contained.stat.complete = walk.sound && links.all;
    contained.stat.whole = contained.stat.complete && root_is_sound && links.nothing_else;
    contained.stat.files = set.files();
    contained.stat.bytes = set.bytes();
    contained.stat.file_set = set.digest();
    if top.contains(METADATA_NAME.as_bytes()) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&folder, METADATA_NAME, flags, Mode::empty()) {
            Ok(metadata) => contained.metadata = Some(metadata),
            // A process of the container's root holds a lease on it.
            Err(Errno::AGAIN) => {
                contained.stat.complete = false;
                contained.stat.whole = false;
            }
            Err(source) => return Err(MountError::os("open(.attache.json)")(source)),
        }
    }
    Ok(contained)
}

/// The generation that `..data` names, if it is there and names one.
pub(super) fn present(root: &Root) -> Result<Option<FolderName>, MountError> {
    match readlinkat(root.as_fd(), DATA, Vec::new()) {
        Ok(link) => Ok(parse_folder_name(link.to_bytes())),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(source) => Err(MountError::Os {
            call: "readlink(..data)",
            source,
        }),
    }
}

/// `..<seq in hex>-<first 8 bytes of the digest in hex>`.
pub(super) fn folder_name(name: FolderName) -> CString {
    let text = format!("..{:x}-{}", name.seq, hex::encode(name.digest_prefix));
    CString::new(text).unwrap_or_default()
}

fn parse_folder_name(text: &[u8]) -> Option<FolderName> {
    let (seq, digest) = std::str::from_utf8(text)
        .ok()?
        .strip_prefix("..")?
        .split_once('-')?;
    let mut digest_prefix = [0; 8];
    hex::decode_to_slice(digest, &mut digest_prefix).ok()?;
    let name = FolderName {
        seq: u64::from_str_radix(seq, 16).ok()?,
        digest_prefix,
    };
    // One spelling only.
    (folder_name(name).to_bytes() == text).then_some(name)
}

/// Where the link of a top entry leads.
pub(super) fn link_target(name: &[u8]) -> Vec<u8> {
    [b"..data/", name].concat()
}

/// What lies in the root beside `..data` and the present folder.
struct Links {
    /// One link for each top entry.
    all: bool,
    /// And nothing that is none.
    nothing_else: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    path: String,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
}

/// A walk over one generation.
struct Walk {
    inode_flags: bool,
    /// Nothing was found that this plugin does not write.
    sound: bool,
    files: Vec<Seen>,
}

impl Walk {
    /// Looks at all beneath `folder`, and answers the names in it.
    fn tree(
        &mut self,
        folder: BorrowedFd<'_>,
        prefix: &str,
        depth: usize,
    ) -> Result<BTreeSet<Vec<u8>>, MountError> {
        self.folder(folder)?;
        let mut top = BTreeSet::new();
        for name in names(folder)? {
            let Ok(text) = name.to_str() else {
                self.sound = false;
                continue;
            };
            let path = format!("{prefix}{text}");
            let stat = look(folder, &name)?;
            match FileType::from_raw_mode(stat.stx_mode.into()) {
                FileType::RegularFile if path == METADATA_NAME => {
                    self.sound &= (stat.stx_uid, stat.stx_gid, bits(&stat)) == (0, 0, 0o444)
                        && self.frozen(&stat);
                }
                FileType::RegularFile => self.file(path, &stat),
                FileType::Directory if depth < MAX_DEPTH => {
                    let inner = open_folder(folder, &name)?;
                    self.tree(inner.as_fd(), &format!("{path}/"), depth + 1)?;
                }
                // Deeper than any generation, or of a kind that none has.
                FileType::Directory
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => self.sound = false,
            }
            top.insert(name.into_bytes());
        }
        Ok(top)
    }

    /// What the root holds beside `..data` and the present folder; what was set aside does not count while it is closed.
    fn links(
        &self,
        root: &Root,
        top: &BTreeSet<Vec<u8>>,
        present: FolderName,
    ) -> Result<Links, MountError> {
        let present = folder_name(present);
        let (mut linked, mut nothing_else) = (0, true);
        for name in names(root.as_fd())? {
            if name.as_c_str() == DATA || name == present {
                continue;
            }
            if is_aside(&name) {
                nothing_else &= self.is_closed(root.as_fd(), &name)?;
                continue;
            }
            let leads_home = match readlinkat(root.as_fd(), &name, Vec::new()) {
                Ok(link) => link.to_bytes() == link_target(name.to_bytes()),
                Err(Errno::INVAL) => false,
                Err(source) => {
                    return Err(MountError::Os {
                        call: "readlink",
                        source,
                    });
                }
            };
            if leads_home && top.contains(name.to_bytes()) {
                linked += 1;
            } else {
                nothing_else = false;
            }
        }
        Ok(Links {
            all: linked == top.len(),
            nothing_else,
        })
    }

    /// Answers whether a folder is root's and frozen, and nobody else may enter it.
    fn is_closed(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, MountError> {
        let stat = look(parent, name)?;
        let is_folder = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let is_roots = (stat.stx_uid, stat.stx_gid, bits(&stat)) == (0, 0, 0);
        Ok(is_folder && is_roots && self.frozen(&stat))
    }

    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<(), MountError> {
        let stat = look(folder, c"")?;
        self.sound &=
            (stat.stx_uid, stat.stx_gid, bits(&stat)) == (0, 0, 0o555) && self.frozen(&stat);
        Ok(())
    }

    fn file(&mut self, path: String, stat: &Statx) {
        self.sound &= bits(stat) & !0o444 == 0 && stat.stx_nlink == 1 && self.frozen(stat);
        self.files.push(Seen {
            path,
            mode: bits(stat),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
        });
    }

    fn frozen(&self, stat: &Statx) -> bool {
        !self.inode_flags || stat.stx_attributes.contains(StatxAttributes::IMMUTABLE)
    }
}

fn look(folder: BorrowedFd<'_>, name: &CStr) -> Result<Statx, MountError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    statx(folder, name, flags, StatxFlags::BASIC_STATS).map_err(MountError::os("statx"))
}

/// Permission bits, those of set-uid and the like included.
fn bits(stat: &Statx) -> u16 {
    stat.stx_mode & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_name_has_one_spelling() {
        let name = FolderName {
            seq: 0x2a,
            digest_prefix: [0xab; 8],
        };
        assert_eq!(folder_name(name).to_bytes(), b"..2a-abababababababab");
        assert_eq!(parse_folder_name(b"..2a-abababababababab"), Some(name));
        for other in [
            "",
            "..",
            "..data",
            "2a-abababababababab",
            "..2A-abababababababab",
            "..02a-abababababababab",
            "..+2a-abababababababab",
            "..2a-ABabababababababab",
            "..2a-abababababababa",
            "..2a-abababababababab00",
            "..-abababababababab",
            "..2a-abababababababab/",
            "..10000000000000000-abababababababab",
        ] {
            assert_eq!(parse_folder_name(other.as_bytes()), None, "{other}");
        }
    }
}
