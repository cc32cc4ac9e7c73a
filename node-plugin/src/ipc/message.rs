//! The messages between agent and mounter, as types and as bytes ([`codec`](super::codec) turns one into the other).
//!
//! All integers are big-endian. A request has 160 bytes, an answer 2,176; what a verb does not use is zero, and a
//! message with anything else there is refused.
//!
//! ```text
//! request, 160 bytes                           answer, 2,176 bytes
//!   0  2  version = 1                            0  2  version = 1
//!   2  2  verb                                   2  2  verb that is answered (0 hello)
//!   4  4  request id                             4  4  request id (0 for hello)
//!   8  8  size of the memory file (write)        8  2  fault, 0 = done
//!  16 16  zero                                  10  2  number of volumes (list)
//!  32 128 volume: all verbs but list; list:     12  4  errno of a fault, 0 = none
//!         the one to go on after, or zero       16  4  flags (below)
//!                                               20  4  files (stat)
//! volume, 128 bytes                             24  8  seq of the generation (stat)
//!   0  1  length of the pod uid                 32  8  first 8 bytes of its digest (stat)
//!   1  1  length of the volume name             40  8  bytes of all files (stat)
//!   2 63  pod uid, then zeroes                  48 32  digest of the file set (stat)
//!  65 63  volume name, then zeroes              80 48  zero
//!                                              128 2048  up to 16 volumes, the others zero (list)
//!
//! flags   hello   1 noswap, 2 inode flags       attach  1 made now        write, wipe  1 changed
//!         detach  1 was mounted                 list    1 there are more
//!         stat    1 mounted, 2 whole, 4 holds a generation (with `.attache.json` as SCM_RIGHTS unless wiped), 8 complete
//! ```

use thiserror::Error;

use crate::volume::Target;

/// The only version spoken: both ends come from one image.
pub const VERSION: u16 = 1;
/// Size of a request.
pub const REQUEST_BYTES: usize = 160;
/// Size of an answer.
pub const ANSWER_BYTES: usize = 2176;
/// Most volumes in one answer to `list`.
pub const LIST_PAGE: usize = 16;

/// What the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Mount a hardened, empty tmpfs at the volume's target; one that is there stays.
    Attach(Target),
    /// Swap in the generation of the memory file that comes with the message.
    Write {
        /// The volume, attached before.
        target: Target,
        /// The size that the memory file must have.
        memfd_bytes: u64,
    },
    /// Swap in an empty generation.
    Wipe(Target),
    /// Unmount the volume and remove its folder; done when it is not there.
    Detach(Target),
    /// Name the mounted volumes, in order, from the first one after `after`.
    List {
        /// The last one of the page before.
        after: Option<Target>,
    },
    /// Tell what a volume holds.
    Stat(Target),
}

impl Request {
    /// The verb's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Attach(_) => "attach",
            Self::Write { .. } => "write",
            Self::Wipe(_) => "wipe",
            Self::Detach(_) => "detach",
            Self::List { .. } => "list",
            Self::Stat(_) => "stat",
        }
    }

    /// The volume, for logs.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Attach(target)
            | Self::Wipe(target)
            | Self::Detach(target)
            | Self::Stat(target) => Some(target),
            Self::Write { target, .. } => Some(target),
            Self::List { after } => after.as_ref(),
        }
    }
}

/// What the mounter found out about its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// tmpfs pages can be kept from swapping (kernel 6.4).
    pub noswap: bool,
    /// Files and folders in tmpfs can be made immutable (kernel 6.6).
    pub inode_flags: bool,
}

/// The folder of a generation, `..<seq in hex>-<first 8 bytes of the digest in hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FolderName {
    /// The generation's place in the order of its volume.
    pub seq: u64,
    /// The first 8 bytes of the generation's digest.
    pub digest_prefix: [u8; 8],
}

/// What a volume holds, as the mounter reads it back from the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeStat {
    /// A tmpfs of ours is mounted at the target.
    pub mounted: bool,
    /// A generation is swapped in, every link leads to it, every owner and mode is of the set kind, everything is
    /// immutable where the kernel can do it, and nothing else lies in the mount.
    pub whole: bool,
    /// All that is said of a whole volume holds for what a reader finds by the names in it; beside that, there may be
    /// leftovers of a change that was cut short.
    pub complete: bool,
    /// The generation that `..data` names.
    pub generation: Option<FolderName>,
    /// How many files it has, without `.attache.json`.
    pub files: u32,
    /// How many bytes they have together.
    pub bytes: u64,
    /// Their paths, modes, owners and sizes: [`FileSet::digest`](super::FileSet::digest).
    pub file_set: [u8; 32],
}

/// What the mounter answers when a request was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// First message of a connection, asked for by nobody.
    Hello(Facts),
    /// The volume is mounted.
    Attached {
        /// It was not before.
        made: bool,
    },
    /// The volume holds the generation.
    Written {
        /// It did not before.
        changed: bool,
    },
    /// The volume holds no file.
    Wiped {
        /// It held something else before.
        changed: bool,
    },
    /// Nothing of ours is mounted at the target.
    Detached {
        /// It was before.
        was_mounted: bool,
    },
    /// A page of mounted volumes.
    Volumes {
        /// In order of pod uid and name; at most [`LIST_PAGE`].
        page: Vec<Target>,
        /// There are more after the last one.
        more: bool,
    },
    /// What a volume holds.
    Stat(VolumeStat),
}

/// Why the mounter did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[repr(u16)]
pub enum FaultCode {
    /// Kubelet has not made the volume's folder, or has removed it.
    #[error("kubelet's folder of the volume is not there")]
    NoVolumeFolder = 1,
    /// A link or another file system entry stands where a folder must be.
    #[error("a part of the target path is not a plain folder")]
    PathRefused = 2,
    /// Something that is not this volume's tmpfs is mounted at the target.
    #[error("something else is mounted at the target")]
    ForeignMount = 3,
    /// The volume is not mounted.
    #[error("the volume is not mounted")]
    NotMounted = 4,
    /// The memory file is not sealed, or not of the size that was announced.
    #[error("the memory file is not sealed, or has another size")]
    BadMemfd = 5,
    /// The memory file's content breaks a rule of its format.
    #[error("the generation in the memory file is malformed")]
    BadGeneration = 6,
    /// The volume's size or number of inodes is used up, by generations that are held open.
    #[error("the volume is full: old generations are still held open, or have leases")]
    NoSpace = 7,
    /// The kernel gave no memory, or no more may be locked.
    #[error("not enough memory that can be locked")]
    NoMemory = 8,
    /// The kernel cannot keep tmpfs from swapping, and swap is on.
    #[error("swap is on and this kernel cannot keep a volume out of it (needs 6.4): turn swap off")]
    SwapOn = 9,
    /// What was read back is not what was written.
    #[error("the volume is not what was written")]
    NotAsWritten = 10,
    /// A system call failed.
    #[error("a system call failed")]
    Os = 11,
}

impl FaultCode {
    pub(super) const ALL: [Self; 11] = [
        Self::NoVolumeFolder,
        Self::PathRefused,
        Self::ForeignMount,
        Self::NotMounted,
        Self::BadMemfd,
        Self::BadGeneration,
        Self::NoSpace,
        Self::NoMemory,
        Self::SwapOn,
        Self::NotAsWritten,
        Self::Os,
    ];
}

/// A refusal as it crosses: a code, and the kernel's errno where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// The errno of the system call that failed.
    pub errno: Option<u16>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "{} (errno {errno})", self.code),
            None => self.code.fmt(f),
        }
    }
}

/// Why bytes are not a message; the connection that they came on ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Not the fixed size.
    #[error("a message of {found} bytes where {expected} are due")]
    Size {
        /// The size of such a message.
        expected: usize,
        /// The size that came.
        found: usize,
    },
    /// Another version.
    #[error("the other process speaks version {0}, this one {VERSION}: run both from one image")]
    Version(u16),
    /// A verb, fault or flag that is not defined.
    #[error("unknown {field} {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A field that breaks its rule.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// An answer to another request.
    #[error("an answer to another request")]
    OutOfOrder,
    /// Another number of descriptors than the message has.
    #[error("a message with another number of descriptors than it must have")]
    Descriptors,
}
