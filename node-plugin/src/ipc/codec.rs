//! The bytes of messages; their layout is in [`message`](super::message). Pure: no socket, no file.
//!
//! What is decoded is exactly what encoding would write: there is one spelling of each message.

use super::message::{
    ANSWER_BYTES, Answer, Facts, Fault, FaultCode, FolderName, LIST_PAGE, MessageError,
    REQUEST_BYTES, Request, VERSION, VolumeStat,
};
use crate::volume::{MAX_ID_BYTES, PodUid, Target, VolumeName};

const HELLO: u16 = 0;
const ATTACH: u16 = 1;
const WRITE: u16 = 2;
const WIPE: u16 = 3;
const DETACH: u16 = 4;
const LIST: u16 = 5;
const STAT: u16 = 6;

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
            bit(stat.mounted, 1)
                | bit(stat.whole, 2)
                | bit(stat.generation.is_some(), 4)
                | bit(stat.complete, 8)
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
            complete: flags & 8 != 0,
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
