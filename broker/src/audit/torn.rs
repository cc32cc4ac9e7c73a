//! What lies behind the last checkpoint when a log is taken up: kept in a file of its own, cut, and put on record.
//!
//! ```text
//! <first index, 20 digits>-<offset>.pending   the bytes, until their cut is on record
//! <first index, 20 digits>-<offset>.torn      the bytes of a cut that is
//! ```
//! Each step is durable before the next begins, and a start goes on at the step that an earlier one reached: no byte is
//! zeroed without a copy, and no cut stays off the record. A batch that was durable once and was damaged afterwards looks
//! like a torn one, so the copy may be all that is left of it: nothing here ever removes one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use attache_mtls::public_file::write_public;
use attache_translog::{Cut, Event, Leaf, Records, TornTail};

use super::segment_file::{NAME_DIGITS, first_index, written_length};

/// The bytes behind a checkpoint, and the record of their cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) cut: Cut,
    /// From the cut's offset to the segment's end.
    pub(super) tail: Vec<u8>,
}

impl Torn {
    /// Keeps a copy, unless an earlier start has: that one then has the bytes as they were.
    ///
    /// # Errors
    /// What the system says; nothing was zeroed then.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        let path = pending_path(dir, &self.cut);
        if path.try_exists()? {
            return Ok(());
        }
        let written = self.tail.get(..written_length(&self.tail));
        write_public(&path, written.unwrap_or_default(), 0o600)
    }
}

/// The cuts that an earlier start began, of a log that has `kept` leaves.
///
/// # Errors
/// What the system says.
pub(super) fn pending(dir: &Path, kept: u64) -> io::Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some((segment, offset)) = place(&path, "pending") else {
            continue;
        };
        let tail = fs::read(&path)?;
        let torn = TornTail {
            bytes: tail.len() as u64,
            leaves: Records::from_offset(&tail, 0).leaves().count() as u64,
        };
        cuts.push(cut_of(segment, offset, torn, kept));
    }
    Ok(cuts)
}

/// Whether the leaves of `segment` have that cut.
pub(super) fn is_on_record(segment: &[u8], cut: &Cut) -> bool {
    Records::new(segment).leaves().any(|body| {
        matches!(Leaf::parse(body).map(|leaf| leaf.event), Ok(Event::Cut(known))
            if (known.segment, known.offset) == (cut.segment, cut.offset))
    })
}

/// Notes that a cut is on record; answers where its bytes are.
///
/// # Errors
/// What the system says; the next start tries again.
pub(super) fn recorded(dir: &Path, cut: &Cut) -> io::Result<PathBuf> {
    let path = pending_path(dir, cut);
    let kept = path.with_extension("torn");
    fs::rename(&path, &kept)?;
    File::open(dir)?.sync_all()?;
    Ok(kept)
}

/// Whether a file of that name is one that [`Torn::keep`] had not finished.
pub(super) fn is_draft(path: &Path) -> bool {
    place(path, "tmp").is_some()
}

/// Describes the bytes from a cut's offset on.
pub(super) fn cut_of(segment: u64, offset: u64, torn: TornTail, size: u64) -> Cut {
    Cut {
        segment,
        offset,
        bytes: torn.bytes,
        leaves: torn.leaves,
        size,
    }
}

fn pending_path(dir: &Path, cut: &Cut) -> PathBuf {
    let (segment, offset) = (cut.segment, cut.offset);
    dir.join(format!("{segment:0NAME_DIGITS$}-{offset}.pending"))
}

/// First index and offset, from a file's name.
fn place(path: &Path, extension: &str) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?;
    let (segment, offset) = name
        .strip_suffix(extension)?
        .strip_suffix('.')?
        .split_once('-')?;
    let digits = offset.bytes().all(|byte| byte.is_ascii_digit());
    let offset = offset.parse().ok().filter(|_| digits)?;
    Some((first_index(segment)?, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torn() -> Torn {
        let cut = Cut {
            segment: 7,
            offset: 4096,
            bytes: 4,
            leaves: 0,
            size: 9,
        };
        let tail = b"TORN\0\0\0\0".to_vec();
        Torn { cut, tail }
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_on_record() {
        let dir = tempfile::tempdir().unwrap();
        let torn = torn();
        torn.keep(dir.path()).unwrap();
        assert_eq!(
            pending(dir.path(), 9).unwrap(),
            std::slice::from_ref(&torn.cut)
        );
        let kept = recorded(dir.path(), &torn.cut).unwrap();
        assert_eq!(fs::read(kept).unwrap(), b"TORN");
        assert!(pending(dir.path(), 9).unwrap().is_empty());
    }

    #[test]
    fn the_first_copy_stays() {
        let dir = tempfile::tempdir().unwrap();
        torn().keep(dir.path()).unwrap();
        let second = Torn {
            tail: b"half a cut".to_vec(),
            ..torn()
        };
        second.keep(dir.path()).unwrap();
        let kept = recorded(dir.path(), &second.cut).unwrap();
        assert_eq!(fs::read(kept).unwrap(), b"TORN");
    }

    #[test]
    fn only_our_own_names_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "7-4096.pending",
            "00000000000000000007.pending",
            "00000000000000000007-x.pending",
            "00000000000000000007-.tmp",
            "report.tmp",
        ] {
            let path = dir.path().join(name);
            fs::write(&path, b"x").unwrap();
            assert!(!is_draft(&path), "{name}");
        }
        assert!(pending(dir.path(), 0).unwrap().is_empty());
        assert!(is_draft(&dir.path().join("00000000000000000007-4096.tmp")));
    }
}
