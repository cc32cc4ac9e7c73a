//! Swaps a generation into a mounted volume.
//!
//! ```text
//! /            root, 0555, immutable but for the two short moments below
//!   ..data  -> ..2a-0123456789abcdef
//!   ..2a-0123456789abcdef/   the generation: folders root's and 0555, files the container's, all immutable
//!     db/password
//!     .attache.json
//!   db           -> ..data/db
//!   .attache.json -> ..data/.attache.json
//!   ..left-0/    what could not be removed yet, if there is such: root's, 0000, immutable
//! ```
//!
//! 1. thawed: leftovers go, `..building` is made; 2. frozen: files are written into it, each immutable at once;
//! 3. thawed: it gets its name, links that are new lead to it, `..data` is renamed over, everything else goes.
//!
//! A reader sees the old generation whole or the new one whole. Killed at any point, the volume still holds one of
//! the two, and the next write cleans up. A file once made immutable is only ever thawed to be unlinked.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, mkdirat, openat, readlinkat,
    renameat_with, symlinkat,
};
use rustix::io::Errno;

use super::error::MountError;
use super::failpoint::{Failpoint, Failpoints};
use super::folder::{Root, names, open_folder};
use super::inspect::{Contained, DATA, folder_name, inspect, link_target, present};
use crate::ipc::generation::{self as format, Contents, METADATA_NAME};
use crate::ipc::{FileSet, Generation};

const BUILDING: &CStr = c"..building";
const NEW_DATA: &CStr = c"..data_tmp";

/// Makes the volume hold `contents`, and answers whether it did not before. When that fails, the volume is as it was.
pub(super) fn write(
    root: &Root,
    contents: &Contents<'_>,
    failpoints: &Failpoints,
) -> Result<bool, MountError> {
    if holds(inspect(root)?, contents)? {
        return Ok(false);
    }
    let old = present(root)?.map(folder_name);
    let before = names(root.as_fd())?;
    // What the present generation, if there is one, stands on; links lie under plain names.
    let stood = |entry: &CStr| {
        let known = before.iter().any(|name| name.as_c_str() == entry);
        is_present(entry, old.as_deref()) || (known && !entry.to_bytes().starts_with(b".."))
    };
    let replaced = replace(root, contents, stood, failpoints);
    if replaced.is_err() && present(root)?.map(folder_name) == old {
        root.unlocked(|_| root.remove_others(stood))?;
    }
    replaced?;
    if holds(inspect(root)?, contents)? {
        Ok(true)
    } else {
        Err(MountError::NotAsWritten("another file set"))
    }
}

fn replace(
    root: &Root,
    contents: &Contents<'_>,
    stood: impl Fn(&CStr) -> bool,
    failpoints: &Failpoints,
) -> Result<(), MountError> {
    let name = folder_name(contents.generation.folder());
    let top = top_entries(contents)?;
    let building = root.unlocked(|folder| {
        root.remove_others(stood)?;
        mkdirat(folder, BUILDING, Mode::RWXU).map_err(MountError::os("mkdir"))?;
        open_folder(folder, BUILDING)
    })?;
    fill(root, building.as_fd(), contents)?;
    failpoints.pass(Failpoint::AfterWrite);
    root.unlocked(|folder| {
        name_building(root, &building, &name)?;
        for entry in &top {
            link(root, folder, entry)?;
        }
        swap(folder, &name, failpoints)?;
        failpoints.pass(Failpoint::AfterSwap);
        root.remove_others(|entry| is_present(entry, Some(&name)) || top.contains(entry))
    })
}

/// Makes the volume hold no file, and answers whether it did not before.
pub(super) fn wipe(root: &Root) -> Result<bool, MountError> {
    let generation = Generation {
        incarnation: 0,
        seq: 0,
        digest: [0; 32],
    };
    let nothing = Contents {
        generation,
        metadata: &[],
        files: Vec::new(),
    };
    write(root, &nothing, &Failpoints::default())
}

/// Removes everything from a volume that is about to be unmounted, since another mount namespace may hold on to it.
/// `..data` first: killed at any point, the volume is whole to a reader, or empty.
pub(super) fn empty(root: &Root) -> Result<(), MountError> {
    root.unlocked(|folder| {
        root.remove(folder, DATA)?;
        root.remove_others(|_| false)
    })
}

/// The two entries of the root that stay while the generation `folder` is the present one.
fn is_present(entry: &CStr, folder: Option<&CStr>) -> bool {
    folder.is_some_and(|folder| entry == DATA || entry == folder)
}

/// Answers whether the volume is whole and holds exactly these files and this metadata. Contents of files are not
/// compared: the digest, which the folder's name begins with, stands for the values.
fn holds(found: Contained, contents: &Contents<'_>) -> Result<bool, MountError> {
    let mut wanted = FileSet::default();
    for file in &contents.files {
        wanted.add(
            file.path.as_bytes(),
            file.mode,
            (file.uid, file.gid),
            file.value.len() as u64,
        );
    }
    let stat = found.stat;
    let alike = stat.whole
        && stat.generation == Some(contents.generation.folder())
        && stat.file_set == wanted.digest()
        && found.metadata.is_some() != contents.metadata.is_empty();
    match found.metadata {
        Some(metadata) if alike => same_bytes(metadata, contents.metadata),
        _ => Ok(alike),
    }
}

fn same_bytes(fd: OwnedFd, wanted: &[u8]) -> Result<bool, MountError> {
    let failed = |error: std::io::Error| MountError::Os {
        call: "read(.attache.json)",
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let mut found = Vec::new();
    File::from(fd)
        .take(wanted.len() as u64 + 1)
        .read_to_end(&mut found)
        .map_err(failed)?;
    Ok(found == wanted)
}

/// The names that get a link in the root: the first part of every path, and the metadata.
fn top_entries(contents: &Contents<'_>) -> Result<BTreeSet<CString>, MountError> {
    let mut top: BTreeSet<&str> = contents
        .files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    if !contents.metadata.is_empty() {
        top.insert(METADATA_NAME);
    }
    top.into_iter().map(c_path).collect()
}

fn c_path(path: &str) -> Result<CString, MountError> {
    CString::new(path).map_err(|_| MountError::NotAsWritten("a NUL in a path"))
}

/// Writes folders and files, files immutable at once, folders when nothing more goes into them; `building` itself
/// is still to be renamed and stays thawed.
fn fill(root: &Root, building: BorrowedFd<'_>, contents: &Contents<'_>) -> Result<(), MountError> {
    let folders: BTreeSet<&str> = contents
        .files
        .iter()
        .flat_map(|file| {
            file.path
                .match_indices('/')
                .filter_map(|(slash, _)| file.path.get(..slash))
        })
        .collect();
    // In this order parents come before what is in them.
    for folder in &folders {
        mkdirat(building, *folder, Mode::RWXU).map_err(MountError::os("mkdir"))?;
    }
    for file in &contents.files {
        write_file(root, building, file)?;
    }
    if !contents.metadata.is_empty() {
        let metadata = format::File {
            path: METADATA_NAME,
            mode: 0o444,
            uid: 0,
            gid: 0,
            value: contents.metadata,
        };
        write_file(root, building, &metadata)?;
    }
    for folder in folders.iter().rev() {
        let folder = open_folder(building, &c_path(folder)?)?;
        fchmod(&folder, Mode::from_raw_mode(0o555)).map_err(MountError::os("fchmod"))?;
        root.freeze(folder.as_fd())?;
    }
    Ok(())
}

/// Writes one file straight from the pinned memory file.
fn write_file(
    root: &Root,
    building: BorrowedFd<'_>,
    file: &format::File<'_>,
) -> Result<(), MountError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(building, file.path, flags, Mode::empty()).map_err(MountError::os("create"))?;
    let mut rest = file.value;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(source) => {
                return Err(MountError::Os {
                    call: "write",
                    source,
                });
            }
        }
    }
    fchown(
        &fd,
        Some(Uid::from_raw(file.uid)),
        Some(Gid::from_raw(file.gid)),
    )
    .map_err(MountError::os("fchown"))?;
    fchmod(&fd, Mode::from_raw_mode(file.mode.into())).map_err(MountError::os("fchmod"))?;
    root.freeze(fd.as_fd())
}

/// Gives the new folder its name and freezes it. Where a folder has that name already (the same files with other
/// metadata, or a damaged one that is mended) the two are exchanged in one step.
fn name_building(root: &Root, building: &OwnedFd, name: &CStr) -> Result<(), MountError> {
    fchmod(building, Mode::from_raw_mode(0o555)).map_err(MountError::os("fchmod"))?;
    match renameat_with(
        root.as_fd(),
        BUILDING,
        root.as_fd(),
        name,
        RenameFlags::NOREPLACE,
    ) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            root.thaw_folder(name)?;
            renameat_with(
                root.as_fd(),
                BUILDING,
                root.as_fd(),
                name,
                RenameFlags::EXCHANGE,
            )
            .map_err(MountError::os("renameat2(exchange)"))?;
        }
        Err(source) => {
            return Err(MountError::Os {
                call: "renameat2",
                source,
            });
        }
    }
    root.freeze(building.as_fd())
}

/// Makes the link of one top entry, which leads nowhere until `..data` does.
fn link(root: &Root, folder: BorrowedFd<'_>, entry: &CStr) -> Result<(), MountError> {
    let target = link_target(entry.to_bytes());
    match readlinkat(folder, entry, Vec::new()) {
        Ok(link) if link.to_bytes() == target => return Ok(()),
        Err(Errno::NOENT) => {}
        // Nothing that this module makes.
        Ok(_) | Err(Errno::INVAL) => root.remove(folder, entry)?,
        Err(source) => {
            return Err(MountError::Os {
                call: "readlink",
                source,
            });
        }
    }
    symlinkat(target, folder, entry).map_err(MountError::os("symlink"))
}

/// Renames a link to the new generation over `..data`: the moment at which the new generation holds.
fn swap(folder: BorrowedFd<'_>, name: &CStr, failpoints: &Failpoints) -> Result<(), MountError> {
    symlinkat(name, folder, NEW_DATA).map_err(MountError::os("symlink"))?;
    failpoints.pass(Failpoint::BeforeSwap);
    renameat_with(folder, NEW_DATA, folder, DATA, RenameFlags::empty())
        .map_err(MountError::os("rename"))
}
