//! The messages between agent and mounter, and their bytes. Pure: no socket, no file.
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
//!         stat    1 mounted, 2 whole, 4 holds a generation (with `.attache.json` as SCM_RIGHTS unless wiped)
//! ```

use thiserror::Error;

use crate::volume::{MAX_ID_BYTES, PodUid, Target, VolumeName};

/// The only version spoken: both ends come from one image.
pub const VERSION: u16 = 1;
/// Size of a request.
pub const REQUEST_BYTES: usize = 160;
/// Size of an answer.
pub const ANSWER_BYTES: usize = 2176;
/// Most volumes in one answer to `list`.
pub const LIST_PAGE: usize = 16;

const HELLO: u16 = 0;
const ATTACH: u16 = 1;
const WRITE: u16 = 2;
const WIPE: u16 = 3;
const DETACH: u16 = 4;
const LIST: u16 = 5;
const STAT: u16 = 6;

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
    #[error("the volume is full: old generations are still held open")]
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
    const ALL: [Self; 11] = [
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

impl Request {
    fn verb(&self) -> u16 {
        match self {
            Self::Attach(_) => ATTACH,
            Self::Write { .. } => WRITE,
            Self::Wipe(_) => WIPE,
            Self::Detach(_) => DETACH,
            Self::List { .. } => LIST,
            Self::Stat(_) => STAT,
        }
    }

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

    /// The request's bytes.
    #[must_use]
    pub fn encode(&self, id: u32) -> [u8; REQUEST_BYTES] {
        let memfd_bytes = match self {
            Self::Write { memfd_bytes, .. } => *memfd_bytes,
            Self::Attach(_)
            | Self::Wipe(_)
            | Self::Detach(_)
            | Self::List { .. }
            | Self::Stat(_) => 0,
        };
        let mut writer = Writer::<REQUEST_BYTES>::new();
        writer.put(&VERSION.to_be_bytes());
        writer.put(&self.verb().to_be_bytes());
        writer.put(&id.to_be_bytes());
        writer.put(&memfd_bytes.to_be_bytes());
        writer.put(&[0; 16]);
        if let Some(target) = self.target() {
            writer.target(target);
        }
        writer.bytes
    }

    /// Parses a request and its id.
    ///
    /// # Errors
    /// [`MessageError`] for anything that [`encode`](Self::encode) does not write.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), MessageError> {
        let mut reader = Reader::sized(bytes, REQUEST_BYTES)?;
        let verb = u16::from_be_bytes(reader.take()?);
        let id = u32::from_be_bytes(reader.take()?);
        let memfd_bytes = u64::from_be_bytes(reader.take()?);
        reader.zeroes::<16>()?;
        let target = reader.target()?;
        if verb != WRITE && memfd_bytes != 0 {
            return Err(MessageError::Malformed("memory file size"));
        }
        let named = |target: Option<Target>| target.ok_or(MessageError::Malformed("volume"));
        let request = match verb {
            ATTACH => Self::Attach(named(target)?),
            WRITE => Self::Write {
                target: named(target)?,
                memfd_bytes,
            },
            WIPE => Self::Wipe(named(target)?),
            DETACH => Self::Detach(named(target)?),
            LIST => Self::List { after: target },
            STAT => Self::Stat(named(target)?),
            other => {
                return Err(MessageError::Unknown {
                    field: "verb",
                    value: other.into(),
                });
            }
        };
        Ok((id, request))
    }

    /// The bytes of an answer to this request.
    #[must_use]
    pub fn encode_answer(&self, id: u32, answer: &Result<Answer, Fault>) -> [u8; ANSWER_BYTES] {
        encode_answer(self.verb(), id, answer)
    }

    /// Parses the answer to this request, sent with `id`.
    ///
    /// # Errors
    /// [`MessageError`] for anything that [`encode_answer`](Self::encode_answer) does not write for this request.
    pub fn decode_answer(
        &self,
        id: u32,
        bytes: &[u8],
    ) -> Result<Result<Answer, Fault>, MessageError> {
        decode_answer(self.verb(), id, bytes)
    }
}

/// The bytes of a hello.
#[must_use]
pub fn encode_hello(facts: Facts) -> [u8; ANSWER_BYTES] {
    encode_answer(HELLO, 0, &Ok(Answer::Hello(facts)))
}

/// Parses a hello.
///
/// # Errors
/// [`MessageError`] for anything that [`encode_hello`] does not write.
pub fn decode_hello(bytes: &[u8]) -> Result<Facts, MessageError> {
    match decode_answer(HELLO, 0, bytes)? {
        Ok(Answer::Hello(facts)) => Ok(facts),
        Ok(_) | Err(_) => Err(MessageError::Malformed("hello")),
    }
}

fn encode_answer(verb: u16, id: u32, answer: &Result<Answer, Fault>) -> [u8; ANSWER_BYTES] {
    let (code, errno) = match answer {
        Ok(_) => (0, 0),
        Err(fault) => (fault.code as u16, fault.errno.unwrap_or(0)),
    };
    let page: &[Target] = match answer {
        Ok(Answer::Volumes { page, .. }) => page.get(..LIST_PAGE).unwrap_or(page),
        _ => &[],
    };
    let stat = match answer {
        Ok(Answer::Stat(stat)) => *stat,
        _ => VolumeStat::default(),
    };
    let folder = stat.generation.unwrap_or_default();
    let mut writer = Writer::<ANSWER_BYTES>::new();
    writer.put(&VERSION.to_be_bytes());
    writer.put(&verb.to_be_bytes());
    writer.put(&id.to_be_bytes());
    writer.put(&code.to_be_bytes());
    writer.put(&u16::try_from(page.len()).unwrap_or(0).to_be_bytes());
    writer.put(&u32::from(errno).to_be_bytes());
    writer.put(&answer.as_ref().map_or(0, flags).to_be_bytes());
    writer.put(&stat.files.to_be_bytes());
    writer.put(&folder.seq.to_be_bytes());
    writer.put(&folder.digest_prefix);
    writer.put(&stat.bytes.to_be_bytes());
    writer.put(&stat.file_set);
    writer.put(&[0; 48]);
    for target in page {
        writer.target(target);
    }
    writer.bytes
}

fn flags(answer: &Answer) -> u32 {
    let bit = |set: bool, value: u32| if set { value } else { 0 };
    match answer {
        Answer::Hello(facts) => bit(facts.noswap, 1) | bit(facts.inode_flags, 2),
        Answer::Attached { made } => bit(*made, 1),
        Answer::Written { changed } | Answer::Wiped { changed } => bit(*changed, 1),
        Answer::Detached { was_mounted } => bit(*was_mounted, 1),
        Answer::Volumes { more, .. } => bit(*more, 1),
        Answer::Stat(stat) => {
            bit(stat.mounted, 1) | bit(stat.whole, 2) | bit(stat.generation.is_some(), 4)
        }
    }
}

fn decode_answer(verb: u16, id: u32, bytes: &[u8]) -> Result<Result<Answer, Fault>, MessageError> {
    let mut reader = Reader::sized(bytes, ANSWER_BYTES)?;
    if u16::from_be_bytes(reader.take()?) != verb || u32::from_be_bytes(reader.take()?) != id {
        return Err(MessageError::OutOfOrder);
    }
    let code = u16::from_be_bytes(reader.take()?);
    let count = usize::from(u16::from_be_bytes(reader.take()?));
    let errno = u32::from_be_bytes(reader.take()?);
    let flags = u32::from_be_bytes(reader.take()?);
    let files = u32::from_be_bytes(reader.take()?);
    let folder = FolderName {
        seq: u64::from_be_bytes(reader.take()?),
        digest_prefix: reader.take()?,
    };
    let bytes = u64::from_be_bytes(reader.take()?);
    let file_set = reader.take()?;
    reader.zeroes::<48>()?;
    let page = reader.page(count)?;
    let answer = if code == 0 {
        let held = flags & 4 != 0;
        let stat = VolumeStat {
            mounted: flags & 1 != 0,
            whole: flags & 2 != 0,
            generation: held.then_some(folder),
            files,
            bytes,
            file_set,
        };
        Ok(done(verb, flags, page, stat)?)
    } else {
        let unknown = MessageError::Unknown {
            field: "fault",
            value: code.into(),
        };
        let code = FaultCode::ALL
            .into_iter()
            .find(|known| *known as u16 == code)
            .ok_or(unknown)?;
        let errno = u16::try_from(errno).map_err(|_| MessageError::Malformed("errno"))?;
        Err(Fault {
            code,
            errno: (errno != 0).then_some(errno),
        })
    };
    // One canonical form: what is not written by the encoder for this very answer is refused.
    if encode_answer(verb, id, &answer) == *reader.whole {
        Ok(answer)
    } else {
        Err(MessageError::Malformed("answer"))
    }
}

fn done(
    verb: u16,
    flags: u32,
    page: Vec<Target>,
    stat: VolumeStat,
) -> Result<Answer, MessageError> {
    let first = flags & 1 != 0;
    Ok(match verb {
        HELLO => Answer::Hello(Facts {
            noswap: first,
            inode_flags: flags & 2 != 0,
        }),
        ATTACH => Answer::Attached { made: first },
        WRITE => Answer::Written { changed: first },
        WIPE => Answer::Wiped { changed: first },
        DETACH => Answer::Detached { was_mounted: first },
        LIST => Answer::Volumes { page, more: first },
        STAT => Answer::Stat(stat),
        other => {
            return Err(MessageError::Unknown {
                field: "verb",
                value: other.into(),
            });
        }
    })
}

/// Fills a fixed number of bytes from the front.
struct Writer<const SIZE: usize> {
    bytes: [u8; SIZE],
    at: usize,
}

impl<const SIZE: usize> Writer<SIZE> {
    fn new() -> Self {
        Self {
            bytes: [0; SIZE],
            at: 0,
        }
    }

    fn put(&mut self, part: &[u8]) {
        let end = self.at + part.len();
        if let Some(slot) = self.bytes.get_mut(self.at..end) {
            slot.copy_from_slice(part);
        }
        self.at = end;
    }

    fn target(&mut self, target: &Target) {
        let parts = [target.pod.as_str(), target.volume.as_str()];
        for part in parts {
            // Both are parsed: at most 63 bytes.
            self.put(&[u8::try_from(part.len()).unwrap_or(0)]);
        }
        for part in parts {
            self.put(part.as_bytes());
            self.at += MAX_ID_BYTES.saturating_sub(part.len());
        }
    }
}

/// Takes fixed-size fields from the front of a message.
struct Reader<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn sized(bytes: &'a [u8], expected: usize) -> Result<Self, MessageError> {
        if bytes.len() != expected {
            return Err(MessageError::Size {
                expected,
                found: bytes.len(),
            });
        }
        let mut reader = Self {
            whole: bytes,
            rest: bytes,
        };
        match u16::from_be_bytes(reader.take()?) {
            VERSION => Ok(reader),
            other => Err(MessageError::Version(other)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let short = MessageError::Size {
            expected: self.whole.len() + 1,
            found: self.whole.len(),
        };
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = rest;
        Ok(*field)
    }

    fn zeroes<const N: usize>(&mut self) -> Result<(), MessageError> {
        if self.take::<N>()? == [0; N] {
            Ok(())
        } else {
            Err(MessageError::Malformed("unused bytes"))
        }
    }

    /// A volume, or `None` for 128 zeroes.
    fn target(&mut self) -> Result<Option<Target>, MessageError> {
        let [pod_len, name_len] = self.take::<2>()?;
        let pod = self.take::<MAX_ID_BYTES>()?;
        let name = self.take::<MAX_ID_BYTES>()?;
        let pod = padded(&pod, pod_len).ok_or(MessageError::Malformed("pod uid"))?;
        let name = padded(&name, name_len).ok_or(MessageError::Malformed("volume name"))?;
        if pod.is_empty() && name.is_empty() {
            return Ok(None);
        }
        let pod = PodUid::parse(pod).map_err(|_| MessageError::Malformed("pod uid"))?;
        let volume = VolumeName::parse(name).map_err(|_| MessageError::Malformed("volume name"))?;
        Ok(Some(Target { pod, volume }))
    }

    fn page(&mut self, count: usize) -> Result<Vec<Target>, MessageError> {
        if count > LIST_PAGE {
            return Err(MessageError::Malformed("number of volumes"));
        }
        let volume = |target: Option<Target>| target.ok_or(MessageError::Malformed("volume"));
        (0..count).map(|_| volume(self.target()?)).collect()
    }
}

/// The text of a zero-padded field, if the padding is zero and the text UTF-8.
fn padded(field: &[u8], len: u8) -> Option<&str> {
    let (text, padding) = field.split_at_checked(usize::from(len))?;
    if padding.iter().any(|b| *b != 0) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests;
