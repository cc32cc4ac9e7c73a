//! The file of one share: five lines of text, of which four say to a person what it is.
//!
//! ```text
//! attache-share-1
//! store 8f0e...            uuid
//! slot 5b3f...             uuid
//! share 2 of 3, any 2 open the slot
//! base64url of the share, no padding
//! ```
//! Read and written in place, so that no copy of the share stays behind. Nothing vouches for the lines above the share: they
//! say where it is to go, and the slot's set says whether it is one of its shares.

use thiserror::Error;
use zeroize::Zeroizing;

use super::base64url;
use crate::id::{SlotId, StoreId};
use crate::shares::{SHARE_BYTES, Share, within};

const HEAD: &str = "attache-share-1";
const DIGITS: usize = (SHARE_BYTES * 8).div_ceil(6);
const LAST_WORDS: &str = " open the slot";

/// No share's file is longer, in bytes.
pub const MAX_SHARE_FILE_BYTES: usize = 256;

/// A share and what its file says of it.
pub struct ShareFile {
    /// The store that it helps to open.
    pub store: StoreId,
    /// The slot of that store.
    pub slot: SlotId,
    /// How many shares open the slot.
    pub threshold: u8,
    /// How many there are.
    pub count: u8,
    /// The share.
    pub share: Share,
}

/// Why a file is no share. Never says what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShareFileError {
    /// It begins otherwise.
    #[error(
        "the share does not begin with the line attache-share-1 (is it another file, or of a newer build?)"
    )]
    Head,
    /// A line above the share is not as it is written.
    #[error("the share's line of its {line} is not as it was written: restore it from its copy")]
    Line {
        /// Which one.
        line: &'static str,
    },
    /// It does not end in a newline.
    #[error("the share does not end in a newline: it may be cut short")]
    Newline,
    /// The share itself has another length.
    #[error("the share's last line does not have {DIGITS} characters: restore it from its copy")]
    Length,
    /// A character is not of base64url.
    #[error("the share's last line has a character outside of A-Z a-z 0-9 - _")]
    Alphabet,
    /// The last character has bits that belong to no byte.
    #[error("the share's last character is not one that is ever written: it was edited")]
    SpareBits,
    /// It says another number than the share in it.
    #[error("the share's file says another number than the share in it: it was edited")]
    Number,
}

impl ShareFile {
    /// The text; mode 0400 is the caller's part.
    #[must_use]
    pub fn text(&self) -> Zeroizing<Vec<u8>> {
        let about = format!(
            "{HEAD}\nstore {}\nslot {}\n{}\n",
            self.store,
            self.slot,
            self.numbers(self.share.index())
        );
        let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
        self.share.write(&mut bytes);
        // Whole from the first: what grows leaves a copy behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_SHARE_FILE_BYTES));
        text.extend_from_slice(about.as_bytes());
        base64url::write(bytes.as_slice(), |digit| text.push(digit));
        text.push(b'\n');
        text
    }

    /// Reads a share's file. Whether it is one of a set shows when it is held against that.
    ///
    /// # Errors
    /// [`ShareFileError`].
    pub fn parse(text: &[u8]) -> Result<Self, ShareFileError> {
        let line = |line| ShareFileError::Line { line };
        let text = text.strip_suffix(b"\n").ok_or(match text {
            text if text.starts_with(HEAD.as_bytes()) => ShareFileError::Newline,
            _ => ShareFileError::Head,
        })?;
        let mut lines = text.splitn(5, |byte| *byte == b'\n');
        if lines.next() != Some(HEAD.as_bytes()) {
            return Err(ShareFileError::Head);
        }
        let mut next = |prefix: &str| {
            let line = str::from_utf8(lines.next()?).ok()?;
            line.strip_prefix(prefix)
        };
        let store = next("store ").and_then(|it| it.parse().ok());
        let store = store.ok_or(line("store"))?;
        let slot = next("slot ").and_then(|it| it.parse().ok());
        let slot = slot.ok_or(line("slot"))?;
        let numbers = next("share ").and_then(numbers).ok_or(line("number"))?;
        let share = read_share(lines.next().unwrap_or_default())?;
        let (index, threshold, count) = numbers;
        if share.index() != index {
            return Err(ShareFileError::Number);
        }
        Ok(Self {
            store,
            slot,
            threshold,
            count,
            share,
        })
    }

    fn numbers(&self, index: u8) -> String {
        let (threshold, count) = (self.threshold, self.count);
        format!("share {index} of {count}, any {threshold}{LAST_WORDS}")
    }
}

/// Number, threshold and count of `2 of 3, any 2 open the slot`.
fn numbers(text: &str) -> Option<(u8, u8, u8)> {
    let (index, rest) = text.split_once(" of ")?;
    let (count, rest) = rest.split_once(", any ")?;
    let threshold = rest.strip_suffix(LAST_WORDS)?;
    let (index, count, threshold) = (number(index)?, number(count)?, number(threshold)?);
    let is_sound = (1..=count).contains(&index) && within(threshold, usize::from(count));
    is_sound.then_some((index, threshold, count))
}

/// A number in the one way that it is written.
fn number(text: &str) -> Option<u8> {
    let is_plain = text.starts_with(|c: char| ('1'..='9').contains(&c));
    text.parse().ok().filter(|_| is_plain)
}

fn read_share(digits: &[u8]) -> Result<Share, ShareFileError> {
    if digits.len() != DIGITS {
        return Err(ShareFileError::Length);
    }
    let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
    base64url::read(digits, bytes.as_mut_slice()).map_err(|fault| match fault {
        base64url::Fault::Alphabet => ShareFileError::Alphabet,
        base64url::Fault::SpareBits => ShareFileError::SpareBits,
    })?;
    Ok(Share::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;
    use crate::key::SlotSecret;
    use crate::shares::split;

    fn files(threshold: u8, count: u8) -> Vec<ShareFile> {
        let secret = SlotSecret::new(&[7; 32]);
        let (set, shares) = split(&SystemRandom, secret, threshold, count).unwrap();
        let file = |share: Share| {
            assert_eq!(set.check(&share), Ok(()));
            ShareFile {
                store: StoreId::from_bytes([1; 16]),
                slot: SlotId::from_bytes([2; 16]),
                threshold,
                count,
                share,
            }
        };
        shares.into_iter().map(file).collect()
    }

    #[test]
    fn a_share_reads_back_with_what_is_said_of_it() {
        for file in files(2, 3).iter().chain(&files(32, 32)) {
            let text = file.text();
            assert!(text.len() <= MAX_SHARE_FILE_BYTES, "{}", text.len());
            let read = ShareFile::parse(&text).unwrap();
            assert_eq!((read.store, read.slot), (file.store, file.slot));
            assert_eq!((read.threshold, read.count), (file.threshold, file.count));
            let (read, share) = (read.share, &file.share);
            assert_eq!(
                (read.set(), read.index(), read.value()),
                (share.set(), share.index(), share.value())
            );
        }
    }

    #[test]
    fn what_is_no_share_is_refused_by_what_is_wrong_with_it() {
        let files = files(2, 3);
        let text = files[1].text().to_vec();
        let good = str::from_utf8(&text).unwrap();
        assert!(good.contains("\nshare 2 of 3, any 2 open the slot\n"));
        let refused = |text: &str| ShareFile::parse(text.as_bytes()).err().unwrap();
        let replaced = |from: &str, to: &str| {
            let bent = good.replace(from, to);
            assert_ne!(bent, good, "{from}");
            refused(&bent)
        };
        let line = |line| ShareFileError::Line { line };
        for (bent, error) in [
            (replaced("share-1\n", "share-2\n"), ShareFileError::Head),
            (refused(""), ShareFileError::Head),
            (refused(&format!(" {good}")), ShareFileError::Head),
            (replaced("store 0", "store O"), line("store")),
            (replaced("slot 0", "slot  0"), line("slot")),
            (replaced("2 of 3", "02 of 3"), line("number")),
            (replaced("2 of 3", "+2 of 3"), line("number")),
            (replaced("2 of 3", "4 of 3"), line("number")),
            (replaced("2 of 3", "0 of 3"), line("number")),
            (replaced("2 of 3", "2 of 33"), line("number")),
            (replaced("any 2", "any 1"), line("number")),
            (replaced("any 2", "any 4"), line("number")),
            (replaced("open the slot", "open it"), line("number")),
            (replaced("2 of 3", "1 of 3"), ShareFileError::Number),
            (refused(&good.replace('\n', "\r\n")), ShareFileError::Head),
            (refused(good.trim_end()), ShareFileError::Newline),
            (refused(&format!("{good}\n")), ShareFileError::Length),
            (refused(&good[..good.len() - 2]), ShareFileError::Newline),
        ] {
            assert_eq!(bent, error);
        }
        let last = |bend: fn(&mut Vec<u8>)| {
            let mut bent = text.clone();
            bend(&mut bent);
            ShareFile::parse(&bent).err().unwrap()
        };
        let alphabet = last(|it| {
            let at = it.len() - 20;
            it[at] = b'+';
        });
        assert_eq!(alphabet, ShareFileError::Alphabet);
        // 392 bits are 65 characters and 2 bits: the last one has four to spare.
        assert_eq!(
            last(|it| {
                let at = it.len() - 2;
                it[at] = b'B';
            }),
            ShareFileError::SpareBits
        );
        for cut in 0..text.len() {
            assert!(ShareFile::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
    }
}
