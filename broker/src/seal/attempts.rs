//! The attempts at a sealed broker, in a file beside the store until there is a key to sign for them.
//!
//! ```text
//! file = format u16 || suite u16 || LP(left out u64, first of them u64, last of them u64, [LP(time u64, slot 16, ending u8, from)])
//! ```
//! Written whole at each attempt: beside itself, synced, renamed. It has a bound: the first and the newest attempts stay,
//! those between are counted. It is not signed by anybody and says so once it is in the log; there is no secret in it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use attache_envelope::EnvelopeError;
use attache_envelope::id::SlotId;
use attache_envelope::lp::{Fault, Lp, Malformed, Reader};
use attache_mtls::private_file::write_private;
use attache_mtls::public_file::read_public;

const RECORD: &str = "the attempts to unseal";
/// How many of the first stay, and how many of the newest.
const KEPT: usize = 128;
/// The file is never longer.
const FILE_BYTES: u64 = 64 * 1024;
/// The text of an address is never longer, in bytes.
const ADDRESS_BYTES: usize = 64;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The store is open.
    Opened,
    /// The secret is not the slot's.
    WrongSecret,
    /// It was sealed for another broker, boot or slot.
    NotForThis,
    /// Nobody can send what opens the slot.
    Kind,
    /// The slot opened, and the store did not.
    Failed,
}

impl Ending {
    const ALL: [Self; 5] = [
        Self::Opened,
        Self::WrongSecret,
        Self::NotForThis,
        Self::Kind,
        Self::Failed,
    ];

    const fn number(self) -> u8 {
        match self {
            Self::Opened => 1,
            Self::WrongSecret => 2,
            Self::NotForThis => 3,
            Self::Kind => 4,
            Self::Failed => 5,
        }
    }

    /// In words, for log and audit.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::WrongSecret => "not what opens that slot",
            Self::NotForThis => "sealed for another broker, boot or slot",
            Self::Kind => "that slot is opened by the broker itself",
            Self::Failed => "the slot opened, and the store did not",
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The slot that it was for.
    pub slot: SlotId,
    /// How it ended.
    pub ending: Ending,
    /// The address that it came from.
    pub from: String,
}

/// Those that were only counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// When the first of them came, in milliseconds since 1970.
    pub first_ms: u64,
    /// When the last of them came.
    pub last_ms: u64,
}

/// The attempts since the store was open last.
#[derive(Debug)]
pub struct Attempts {
    file: PathBuf,
    list: Vec<Attempt>,
    left_out: LeftOut,
}

impl Attempts {
    /// Reads the file, where there is one. One that cannot be read is put aside: it must not keep anybody out.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let none = || Self {
            file: file.to_owned(),
            list: Vec::new(),
            left_out: LeftOut::default(),
        };
        let bytes = match read_public(file, FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return none(),
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "{RECORD} cannot be read, and are begun anew");
                return none();
            }
        };
        match decode(&bytes) {
            Ok((left_out, list)) => Self {
                left_out,
                list,
                ..none()
            },
            Err(error) => {
                let aside = file.with_extension("damaged");
                let kept = fs::rename(file, &aside).is_ok();
                tracing::error!(file = %file.display(), %error, kept, "{RECORD} cannot be read, and are begun anew");
                none()
            }
        }
    }

    /// Those that are there, oldest first.
    #[must_use]
    pub fn list(&self) -> &[Attempt] {
        &self.list
    }

    /// Those that were only counted.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Writes one more down, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, attempt: Attempt) -> io::Result<()> {
        self.list.push(attempt);
        if self.list.len() > 2 * KEPT {
            let gone = self.list.remove(KEPT);
            let left = &mut self.left_out;
            if left.count == 0 {
                left.first_ms = gone.time_ms;
            }
            left.count = left.count.saturating_add(1);
            left.last_ms = gone.time_ms;
        }
        write_private(&self.file, &encode(&self.left_out, &self.list)).map_err(io::Error::other)
    }

    /// Takes the file away: what was in it is in the audit log.
    ///
    /// # Errors
    /// When it cannot be removed; then it comes into the log once more.
    pub fn forget(self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn encode(left_out: &LeftOut, list: &[Attempt]) -> Vec<u8> {
    let attempt = |attempt: &Attempt| {
        Lp::new()
            .u64(attempt.time_ms)
            .id(attempt.slot)
            .u8(attempt.ending.number())
            .str(&attempt.from)
    };
    Lp::record()
        .u64(left_out.count)
        .u64(left_out.first_ms)
        .u64(left_out.last_ms)
        .list(list.iter().map(attempt))
        .into_bytes()
}

fn decode(bytes: &[u8]) -> Result<(LeftOut, Vec<Attempt>), EnvelopeError> {
    let reader = Reader::record(RECORD, bytes)?;
    read(reader).map_err(EnvelopeError::malformed(RECORD))
}

fn read(mut reader: Reader<'_>) -> Result<(LeftOut, Vec<Attempt>), Malformed> {
    let left_out = LeftOut {
        count: reader.u64("left out")?,
        first_ms: reader.u64("first of them")?,
        last_ms: reader.u64("last of them")?,
    };
    let list = reader.list("attempts", 2 * KEPT, |part| {
        let (time_ms, slot) = (part.u64("time")?, part.id("slot")?);
        let number = part.u8("ending")?;
        let ending = Ending::ALL.into_iter().find(|it| it.number() == number);
        Ok(Attempt {
            time_ms,
            slot,
            ending: ending.ok_or(Malformed::new("ending", Fault::Unknown))?,
            from: part.str("from", ADDRESS_BYTES)?.to_owned(),
        })
    })?;
    reader.finish("the record")?;
    Ok((left_out, list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(n: u64) -> Attempt {
        Attempt {
            time_ms: n,
            slot: SlotId::from_bytes([7; 16]),
            ending: Ending::WrongSecret,
            from: "2001:0db8:0000:0000:0000:0000:0000:0001".to_owned(),
        }
    }

    #[test]
    fn a_flood_keeps_the_first_and_the_newest_counts_the_rest_and_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("unseal-attempts");
        let mut attempts = Attempts::read(&file);
        for n in 0..1000 {
            attempts.note(attempt(n)).unwrap();
        }
        assert!(fs::metadata(&file).unwrap().len() < FILE_BYTES);
        let read = Attempts::read(&file);
        assert_eq!(read.list(), attempts.list());
        let kept: Vec<_> = read.list().iter().map(|it| it.time_ms).collect();
        let expected: Vec<_> = (0..128).chain(872..1000).collect();
        assert_eq!(kept, expected);
        let left = LeftOut {
            count: 744,
            first_ms: 128,
            last_ms: 871,
        };
        assert_eq!(read.left_out(), left);
        read.forget().unwrap();
        assert!(!file.exists());
        assert_eq!(Attempts::read(&file).list(), []);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("unseal-attempts");
        let mut attempts = Attempts::read(&file);
        attempts.note(attempt(1)).unwrap();
        let whole = fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            assert!(decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        fs::write(&file, b"something else").unwrap();
        let mut attempts = Attempts::read(&file);
        assert_eq!(attempts.list(), []);
        assert!(file.with_extension("damaged").exists());
        attempts.note(attempt(2)).unwrap();
        assert_eq!(Attempts::read(&file).list(), [attempt(2)]);
    }
}
