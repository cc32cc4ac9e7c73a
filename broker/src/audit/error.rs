//! What can go wrong with the audit log, by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a record did not become durable, or could not be read. Whatever it guards is then denied.
#[derive(Debug, Error)]
pub enum AuditError {
    /// There is no room for the next segment. Nothing was written; appends go on as soon as there is room.
    #[error(
        "audit disk full: no room for the next segment of {needed_bytes} bytes; free space in the audit folder"
    )]
    DiskFull {
        /// What the next segment takes.
        needed_bytes: u64,
    },
    /// The next segment could not be made for another reason. Nothing was written; the next append tries again.
    #[error("the next audit segment cannot be prepared")]
    NotPrepared(#[source] io::Error),
    /// A write or a sync failed: what the disk holds is not known, so nothing more is written until a restart has
    /// recovered the log.
    #[error("the audit log failed and stays closed until the broker is restarted")]
    Poisoned,
    /// The log was closed by the shutdown.
    #[error("the audit log is closed")]
    Closed,
    /// A leaf is larger than a record may be.
    #[error("the audit leaf has {size_bytes} bytes; at most {limit_bytes} are allowed")]
    LeafTooLarge {
        /// Of the encoded leaf.
        size_bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
    /// A leaf's parts do not encode.
    #[error("the audit leaf does not encode")]
    Leaf(#[source] attache_translog::LeafError),
    /// A segment could not be read.
    #[error("cannot read the audit segment {}", path.display())]
    Read {
        /// The segment's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A stored record is not what was written.
    #[error("the audit segment {} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
}

/// Why the log does not open. Each of them keeps the broker from starting.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("the audit folder {} is in use by another broker", path.display())]
    InUse {
        /// The audit folder.
        path: PathBuf,
    },
    /// A segment carries another store's or another chain's id.
    #[error("the audit segment {} belongs to another store or chain; point audit.dir at this store's own folder", path.display())]
    OtherLog {
        /// The segment's file.
        path: PathBuf,
    },
    /// A segment's header is of a format that this version does not know, or no header at all.
    #[error("the audit segment {} has no header that this version knows", path.display())]
    Header {
        /// The segment's file.
        path: PathBuf,
    },
    /// No checkpoint verifies under this store's audit key.
    #[error("no checkpoint of the audit segment {} verifies under this store's audit key", path.display())]
    Unverifiable {
        /// The segment's file.
        path: PathBuf,
    },
    /// Records that were durable are damaged: more than one torn batch would have to be cut.
    #[error("the audit segment {} is damaged at byte {offset}, before records that were durable; a crash does not do that: restore it, or keep it aside as evidence", path.display())]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// The first byte that is not covered by a checkpoint.
        offset: u64,
    },
    /// A leaf that this version cannot read, so that it cannot tell what is open.
    #[error(
        "leaf {index} of the audit log does not parse: a newer version wrote it, or it is damaged; start the newer version, or restore the segment"
    )]
    UnknownLeaf {
        /// Which leaf.
        index: u64,
    },
    /// A segment is missing between two others.
    #[error("the audit log has no leaf {index}: a segment is missing or was cut short")]
    Gap {
        /// The first missing index.
        index: u64,
    },
    /// The log ends before what the store's anchor knows of it: what was acknowledged is missing.
    #[error(
        "the audit log has {found} leaves that verify, and the store knows of {anchored}: its end was cut off or damaged; put the audit folder back, or keep it aside as evidence"
    )]
    Behind {
        /// Up to the last checkpoint that verifies.
        found: u64,
        /// What the anchor knows.
        anchored: u64,
    },
    /// The log has another history than the store's anchor knows.
    #[error(
        "the audit log is not the one that the store knows: it has no checkpoint of {size} leaves with the root in the store's anchor"
    )]
    Forked {
        /// The size that the anchor knows.
        size: u64,
    },
    /// There is no room for a segment.
    #[error("audit disk full: no room for a segment of {needed_bytes} bytes in {}", path.display())]
    DiskFull {
        /// The audit folder.
        path: PathBuf,
        /// What a segment takes.
        needed_bytes: u64,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The first records of this start could not be written.
    #[error("cannot write to the audit log")]
    Append(#[from] AuditError),
}
