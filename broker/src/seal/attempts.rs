//! The attempts at a sealed broker, in a file beside the store until there is a key to sign for them.
//!
//! ```text
//! file = format u16 || suite u16 || LP(left out, refused, [LP(time u64, slot 16, ending u8, share u8, from)])
//! left out, refused = how many u64, first of them u64, last of them u64
//! ```
//! Written whole at each attempt: beside itself, synced, renamed. It has a bound: the first and the newest attempts stay,
//! those between are counted, and those that were not tried since there were too many are counted from the beginning. It is
//! not signed by anybody and says so once it is in the log; there is no secret in it.

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
    /// It was sealed for another sealed time.
    OtherBoot,
    /// The store has no such slot.
    Absent,
    /// A share was taken, and more are needed.
    ShareTaken,
    /// A share is not what was handed out under its number.
    WrongShare,
    /// A share is of another set.
    OtherSet,
    /// A share is there already.
    ShareTwice,
}

impl Ending {
    const ALL: [Self; 11] = [
        Self::Opened,
        Self::WrongSecret,
        Self::NotForThis,
        Self::Kind,
        Self::Failed,
        Self::OtherBoot,
        Self::Absent,
        Self::ShareTaken,
        Self::WrongShare,
        Self::OtherSet,
        Self::ShareTwice,
    ];

    const fn number(self) -> u8 {
        match self {
            Self::Opened => 1,
            Self::WrongSecret => 2,
            Self::NotForThis => 3,
            Self::Kind => 4,
            Self::Failed => 5,
            Self::OtherBoot => 6,
            Self::Absent => 7,
            Self::ShareTaken => 8,
            Self::WrongShare => 9,
            Self::OtherSet => 10,
            Self::ShareTwice => 11,
        }
    }

    const fn told(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::WrongSecret => "not what opens that slot",
            Self::NotForThis => "sealed for another broker, boot or slot",
            Self::Kind => "that slot is opened by the broker itself",
            Self::Failed => "the slot opened, and the store did not",
            Self::OtherBoot => "sealed to another boot key",
            Self::Absent => "the store has no such slot",
            Self::ShareTaken => "a share was taken",
            Self::WrongShare => "a share that is not what was handed out",
            Self::OtherSet => "a share of another set",
            Self::ShareTwice => "a share that was there already",
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
    /// The number of the share that it was, where it was one of the slot's.
    pub share: Option<u8>,
    /// The address that it came from.
    pub from: String,
}

impl Attempt {
    /// How it ended in words, for log and audit.
    #[must_use]
    pub fn told(&self) -> String {
        let told = self.ending.told();
        match self.share {
            Some(number) => format!("{told}: number {number}"),
            None => told.to_owned(),
        }
    }
}

/// Those that were only counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// When the first of them came, in milliseconds since 1970.
    pub first_ms: u64,
    /// When the last of them came.
    pub last_ms: u64,
}

impl Counted {
    /// One of them.
    #[must_use]
    pub const fn one(time_ms: u64) -> Self {
        Self {
            count: 1,
            first_ms: time_ms,
            last_ms: time_ms,
        }
    }

    /// These and later ones.
    pub fn add(&mut self, later: Self) {
        if self.count == 0 {
            self.first_ms = later.first_ms;
        }
        if later.count > 0 {
            self.last_ms = later.last_ms;
        }
        self.count = self.count.saturating_add(later.count);
    }
}

/// The attempts since the store was open last.
#[derive(Debug)]
pub struct Attempts {
    file: PathBuf,
    list: Vec<Attempt>,
    left_out: Counted,
    refused: Counted,
}

impl Attempts {
    /// Reads the file, where there is one. One that cannot be read is put aside: it must not keep anybody out.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let none = || Self {
            file: file.to_owned(),
            list: Vec::new(),
            left_out: Counted::default(),
            refused: Counted::default(),
        };
        let bytes = match read_public(file, FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return none(),
            Err(error) => {
                let kept = fs::rename(file, file.with_extension("damaged")).is_ok();
                tracing::error!(file = %file.display(), %error, kept, "{RECORD} cannot be read, and are begun anew");
                return none();
            }
        };
        match decode(&bytes) {
            Ok(decoded) => Self {
                file: file.to_owned(),
                ..decoded
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

    /// Those between the first and the newest, which were only counted.
    #[must_use]
    pub fn left_out(&self) -> Counted {
        self.left_out
    }

    /// Those that were not tried, since there were too many.
    #[must_use]
    pub fn refused(&self) -> Counted {
        self.refused
    }

    /// Counts some that were not tried; [`Attempts::save`] and the next note write it down.
    pub fn count_refused(&mut self, some: Counted) {
        self.refused.add(some);
    }

    /// Writes one more down, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, attempt: Attempt) -> io::Result<()> {
        self.list.push(attempt);
        if self.list.len() > 2 * KEPT {
            let gone = self.list.remove(KEPT);
            self.left_out.add(Counted::one(gone.time_ms));
        }
        self.save()
    }

    /// Writes down what is there, durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> io::Result<()> {
        write_private(&self.file, &self.encode()).map_err(io::Error::other)
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

impl Attempts {
    fn encode(&self) -> Vec<u8> {
        let attempt = |attempt: &Attempt| {
            Lp::new()
                .u64(attempt.time_ms)
                .id(attempt.slot)
                .u8(attempt.ending.number())
                .u8(attempt.share.unwrap_or(0))
                .str(&attempt.from)
        };
        let counted = |to: Lp, counted: &Counted| {
            to.u64(counted.count)
                .u64(counted.first_ms)
                .u64(counted.last_ms)
        };
        counted(counted(Lp::record(), &self.left_out), &self.refused)
            .list(self.list.iter().map(attempt))
            .into_bytes()
    }
}

/// The record, without the path of its file.
fn decode(bytes: &[u8]) -> Result<Attempts, EnvelopeError> {
    let reader = Reader::record(RECORD, bytes)?;
    read(reader).map_err(EnvelopeError::malformed(RECORD))
}

fn counted(reader: &mut Reader<'_>) -> Result<Counted, Malformed> {
    Ok(Counted {
        count: reader.u64("how many")?,
        first_ms: reader.u64("first of them")?,
        last_ms: reader.u64("last of them")?,
    })
}

fn read(mut reader: Reader<'_>) -> Result<Attempts, Malformed> {
    let (left_out, refused) = (counted(&mut reader)?, counted(&mut reader)?);
    let list = reader.list("attempts", 2 * KEPT, |part| {
        let (time_ms, slot) = (part.u64("time")?, part.id("slot")?);
        let number = part.u8("ending")?;
        let ending = Ending::ALL.into_iter().find(|it| it.number() == number);
        Ok(Attempt {
            time_ms,
            slot,
            ending: ending.ok_or(Malformed::new("ending", Fault::Unknown))?,
            share: Some(part.u8("share")?).filter(|number| *number > 0),
            from: part.str("from", ADDRESS_BYTES)?.to_owned(),
        })
    })?;
    reader.finish("the record")?;
    Ok(Attempts {
        file: PathBuf::new(),
        list,
        left_out,
        refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(n: u64) -> Attempt {
        Attempt {
            time_ms: n,
            slot: SlotId::from_bytes([7; 16]),
            ending: Ending::WrongSecret,
            share: None,
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
        let left = Counted {
            count: 744,
            first_ms: 128,
            last_ms: 871,
        };
        assert_eq!(read.left_out(), left);
        assert_eq!(read.refused(), Counted::default());
        read.forget().unwrap();
        assert!(!file.exists());
        assert_eq!(Attempts::read(&file).list(), []);
    }

    #[test]
    fn those_that_were_not_tried_are_a_number_with_their_first_and_their_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("unseal-attempts");
        let mut attempts = Attempts::read(&file);
        for time_ms in 5..1005 {
            attempts.count_refused(Counted::one(time_ms));
        }
        attempts.count_refused(Counted::default());
        attempts.save().unwrap();
        attempts.note(attempt(2)).unwrap();
        let read = Attempts::read(&file);
        assert_eq!(read.list(), [attempt(2)]);
        let refused = Counted {
            count: 1000,
            first_ms: 5,
            last_ms: 1004,
        };
        assert_eq!(read.refused(), refused);
    }

    #[test]
    fn every_ending_reads_back_and_a_share_is_told_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("unseal-attempts");
        let mut attempts = Attempts::read(&file);
        for (share, ending) in (0u8..).zip(Ending::ALL) {
            let share = Some(share).filter(|share| *share > 0);
            let attempt = Attempt {
                ending,
                share,
                ..attempt(1)
            };
            attempts.note(attempt).unwrap();
        }
        let read = Attempts::read(&file);
        assert_eq!(read.list(), attempts.list());
        let told: Vec<_> = read.list().iter().map(Attempt::told).collect();
        assert_eq!(told[0], "opened");
        assert_eq!(told[7], "a share was taken: number 7");
        assert_eq!(told[10], "a share that was there already: number 10");
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
