//! An operator's seal, in a file beside the store: it holds over a restart of the process.
//!
//! ```text
//! file = format u16 || suite u16 || LP(time u64, operator, serial, request 16, reason, padding), 4,096 bytes
//! ```
//! It is there before a key goes and until the broker was opened again, and a broker that finds it at its start tries none
//! of its own openers. Whatever stands at its path counts: a file that says nothing is a seal by nobody known. It is no
//! protection against whoever can write the folder, who can take it away.
//!
//! A full disk must not keep anybody from sealing, so a spare of the same size waits beside it: it is written over and
//! renamed, which takes no room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use attache_envelope::EnvelopeError;
use attache_envelope::id::RequestId;
use attache_envelope::lp::{Lp, Malformed, Reader};
use attache_mtls::private_file::write_private;
use attache_mtls::public_file::read_public;
use attache_mtls::spiffe::MAX_ID_BYTES;
use jiff::Timestamp;

const RECORD: &str = "the note of an operator's seal";
/// The file always has this length.
const NOTE_BYTES: usize = 4096;
/// Serial numbers of certificates are never longer.
const SERIAL_BYTES: usize = 20;
/// Reasons are never longer, in bytes.
const REASON_BYTES: usize = 1024;

/// Who sealed the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The operator's SPIFFE ID.
    pub operator: String,
    /// The serial number of the certificate that they showed.
    pub serial: Vec<u8>,
    /// Their request.
    pub request: RequestId,
    /// Why, in their words; empty for none.
    pub reason: String,
}

/// Whether an operator's seal is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorSeal {
    /// None is.
    Absent,
    /// This one.
    By(Box<Note>),
    /// One whose note cannot be read, or was never written.
    Unknown,
}

impl OperatorSeal {
    /// Reads the file. Anything but its absence is a seal.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        // Not through a link: one that leads nowhere is something, too.
        match fs::symlink_metadata(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::Absent,
            Ok(_) | Err(_) => {}
        }
        let read = read_public(file, NOTE_BYTES as u64)
            .map_err(|error| error.to_string())
            .and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
        match read {
            Ok(note) => Self::By(Box::new(note)),
            Err(error) => {
                tracing::error!(file = %file.display(), error, "{RECORD} cannot be read, and counts as one");
                Self::Unknown
            }
        }
    }

    /// Whether one is in force.
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self != Self::Absent
    }

    /// A seal that is in force although nothing could be written down of it is one by nobody known.
    #[must_use]
    pub fn or_unknown(self) -> Self {
        match self {
            Self::Absent => Self::Unknown,
            Self::By(_) | Self::Unknown => self,
        }
    }

    /// Who, where that is known.
    #[must_use]
    pub fn note(&self) -> Option<&Note> {
        match self {
            Self::By(note) => Some(note),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// For log and people: since when, and by whom.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Absent => "not by an operator".to_owned(),
            Self::Unknown => {
                "by an operator; the note of it cannot be read, or was not written".to_owned()
            }
            Self::By(note) => {
                let since = i64::try_from(note.time_ms).ok();
                let since = since.and_then(|ms| Timestamp::from_millisecond(ms).ok());
                let since = since.map_or_else(|| "an unknown time".to_owned(), |it| it.to_string());
                format!("by an operator since {since} ({})", note.operator)
            }
        }
    }
}

impl Note {
    /// Writes it down, durably: in place of the spare where the disk has no room.
    ///
    /// # Errors
    /// When neither can be done.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let bytes = self.encode();
        let Err(error) = write_private(file, &bytes) else {
            return Ok(());
        };
        let spent = spend_spare(file, &bytes);
        tracing::warn!(%error, spent = spent.is_ok(), "{RECORD} takes the place of its spare");
        spent.map_err(|_| io::Error::other(error))
    }

    fn encode(&self) -> Vec<u8> {
        let padded = |padding: &[u8]| {
            Lp::record()
                .u64(self.time_ms)
                .str(&self.operator)
                .bytes(&self.serial)
                .id(self.request)
                .str(&self.reason)
                .bytes(padding)
                .into_bytes()
        };
        let padding = NOTE_BYTES.saturating_sub(padded(&[]).len());
        padded(&vec![0; padding])
    }
}

/// Takes a note away, durably, once the broker is open.
///
/// # Errors
/// When it cannot be removed: then the next start is sealed.
pub fn lift(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    sync_folder(file)
}

/// Sees that there is a spare for the next note.
///
/// # Errors
/// When it cannot be written: then a seal needs room on the disk.
pub fn keep_spare(file: &Path) -> io::Result<()> {
    let spare = spare_of(file);
    let there =
        fs::symlink_metadata(&spare).is_ok_and(|it| it.is_file() && it.len() == NOTE_BYTES as u64);
    if there {
        return Ok(());
    }
    // Not zeros alone: a file system may leave those out.
    write_private(&spare, &[0xff; NOTE_BYTES]).map_err(io::Error::other)
}

fn spend_spare(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let spare = spare_of(file);
    let mut open = OpenOptions::new().write(true).open(&spare)?;
    // That it is there is what counts; what it says comes second.
    let _said = open.write_all(bytes).and_then(|()| open.sync_all());
    fs::rename(&spare, file)?;
    sync_folder(file)
}

fn spare_of(file: &Path) -> PathBuf {
    file.with_extension("spare")
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}

fn decode(bytes: &[u8]) -> Result<Note, EnvelopeError> {
    let reader = Reader::record(RECORD, bytes)?;
    fields(reader).map_err(EnvelopeError::malformed(RECORD))
}

fn fields(mut reader: Reader<'_>) -> Result<Note, Malformed> {
    let note = Note {
        time_ms: reader.u64("time")?,
        operator: reader.str("operator", MAX_ID_BYTES)?.to_owned(),
        serial: reader.bytes_up_to("serial", SERIAL_BYTES)?.to_vec(),
        request: reader.id("request")?,
        reason: reader.str("reason", REASON_BYTES)?.to_owned(),
    };
    reader.bytes_up_to("padding", NOTE_BYTES)?;
    reader.finish("the record")?;
    Ok(note)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn note() -> Note {
        Note {
            time_ms: 1_700_000_000_000,
            operator: "spiffe://example.internal/operator/ada".to_owned(),
            serial: vec![1, 2, 3],
            request: RequestId::from_bytes([9; 16]),
            reason: "memory was read".to_owned(),
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_is_gone_once_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sealed-by-operator");
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Absent);
        lift(&file).unwrap();
        let largest = Note {
            operator: "o".repeat(MAX_ID_BYTES),
            serial: vec![7; SERIAL_BYTES],
            reason: "r".repeat(REASON_BYTES),
            ..note()
        };
        for note in [note(), largest] {
            note.write(&file).unwrap();
            let found = fs::metadata(&file).unwrap();
            assert_eq!(found.len(), NOTE_BYTES as u64);
            assert_eq!(found.permissions().mode() & 0o777, 0o600);
            assert_eq!(OperatorSeal::read(&file).note(), Some(&note));
        }
        lift(&file).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Absent);
    }

    #[test]
    fn whatever_stands_in_its_place_is_a_seal() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sealed-by-operator");
        note().write(&file).unwrap();
        let whole = fs::read(&file).unwrap();
        for cut in [0, 1, 4, 40, whole.len() - 1] {
            fs::write(&file, &whole[..cut]).unwrap();
            assert_eq!(
                OperatorSeal::read(&file),
                OperatorSeal::Unknown,
                "cut at {cut}"
            );
        }
        fs::write(&file, vec![0; 2 * NOTE_BYTES]).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Unknown);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Unknown);
        fs::remove_dir(&file).unwrap();
        symlink(dir.path().join("nowhere"), &file).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Unknown);
    }

    #[test]
    fn the_spare_becomes_the_note_and_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sealed-by-operator");
        let bytes = note().encode();
        assert!(spend_spare(&file, &bytes).is_err(), "there is none");
        keep_spare(&file).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Absent);
        spend_spare(&file, &bytes).unwrap();
        assert_eq!(OperatorSeal::read(&file).note(), Some(&note()));
        assert!(!spare_of(&file).exists());
        lift(&file).unwrap();
        keep_spare(&file).unwrap();
        keep_spare(&file).unwrap();
        // One that was not written over is a seal all the same.
        fs::rename(spare_of(&file), &file).unwrap();
        assert_eq!(OperatorSeal::read(&file), OperatorSeal::Unknown);
    }
}
