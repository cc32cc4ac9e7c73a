//! Signed notes of C2SP (`signed-note`): a text, and lines that sign it.
//!
//! ```text
//! note  = text || "\n" || lines        text ends in a newline       line = "\u{2014} " name " " base64(key id || signature) "\n"
//! key id = SHA-256(name || 0x0A || 0x01 || pk)[..4]                 vkey = name "+" hex(key id) "+" base64(0x01 || pk)
//! ```
//!
//! Only Ed25519 (type 0x01). A [`Signer`] is built from the arena's seed for one batch and dropped with it: ring's
//! pair is not wiped. A note is never taken on the word of a key that is not asked for: lines of other keys are passed
//! over, a broken line of the key itself refuses the note.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

const TYPE_ED25519: u8 = 0x01;
const SIGNATURE_BYTES: usize = 64;
const MAX_NOTE_BYTES: usize = 64 * 1024;
const MAX_SIGNATURES: usize = 64;

/// A note or a key text that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoteError {
    /// A key name is empty or holds a space, a plus or a control character.
    #[error("a key name is empty or holds a space, a plus or a control character")]
    Name,
    /// The public key's text is not `name+id+key`, or its id is not that of name and key.
    #[error("the key is not of the form name+id+base64, or its id does not belong to it")]
    VerifierKey,
    /// The note is not text, an empty line and signature lines.
    #[error("malformed signed note")]
    Malformed,
    /// The key asked for has not signed this note.
    #[error("not signed by the expected key")]
    Unsigned,
    /// A line of the key asked for does not verify.
    #[error("the signature does not verify")]
    Signature,
}

/// A signing key with its name, for one batch.
pub struct Signer {
    verifier: Verifier,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// Builds the pair from a borrowed 32-byte seed (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Signature)?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| NoteError::Signature)?;
        Ok(Self {
            verifier: Verifier::new(name, public)?,
            pair,
        })
    }

    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Signs bytes that can be no note's text: an LP begins with a zero.
    pub(crate) fn sign_statement(
        &self,
        statement: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], NoteError> {
        let signature = self.pair.sign(statement);
        signature
            .as_ref()
            .try_into()
            .map_err(|_| NoteError::Signature)
    }

    /// Signs `text`, which ends in a newline, and answers the whole note.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] for a text that is no note's.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        if !text.ends_with('\n') || !is_note_text(text) {
            return Err(NoteError::Malformed);
        }
        let mut blob = self.verifier.id.to_vec();
        blob.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        Ok(format!(
            "{text}\n\u{2014} {} {}\n",
            self.verifier.name,
            STANDARD.encode(blob)
        ))
    }
}

/// A public key with its name: what verifies a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    id: [u8; 4],
    key: [u8; 32],
}

impl Verifier {
    /// Names a public key.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, NoteError> {
        if !is_key_name(name) {
            return Err(NoteError::Name);
        }
        Ok(Self {
            name: name.to_owned(),
            id: key_id(name, &key),
            key,
        })
    }

    /// Reads a `vkey`: `name+hex(key id)+base64(0x01 || pk)`.
    ///
    /// # Errors
    /// [`NoteError::VerifierKey`].
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoteError::VerifierKey);
        };
        let blob = STANDARD
            .decode(encoded)
            .map_err(|_| NoteError::VerifierKey)?;
        let Some((&TYPE_ED25519, key)) = blob.split_first() else {
            return Err(NoteError::VerifierKey);
        };
        let key = key.try_into().map_err(|_| NoteError::VerifierKey)?;
        let verifier = Self::new(name, key).map_err(|_| NoteError::VerifierKey)?;
        if hex::encode(verifier.id) == id {
            Ok(verifier)
        } else {
            Err(NoteError::VerifierKey)
        }
    }

    /// The same key under another name: one key signs notes of several kinds, each under a name of its own.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn named(&self, name: &str) -> Result<Self, NoteError> {
        Self::new(name, self.key)
    }

    /// The public key (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The key as text.
    #[must_use]
    pub fn vkey(&self) -> String {
        let blob = [&[TYPE_ED25519][..], &self.key].concat();
        format!(
            "{}+{}+{}",
            self.name,
            hex::encode(self.id),
            STANDARD.encode(blob)
        )
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks that this key has signed `note`, and answers the text that it signed.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], [`NoteError::Unsigned`], [`NoteError::Signature`].
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        if note.len() > MAX_NOTE_BYTES || !is_note_text(note) {
            return Err(NoteError::Malformed);
        }
        let blank = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, lines) = note
            .split_at_checked(blank + 1)
            .ok_or(NoteError::Malformed)?;
        let lines = lines
            .strip_prefix('\n')
            .and_then(|l| l.strip_suffix('\n'))
            .ok_or(NoteError::Malformed)?;
        let mut signed = false;
        for (count, line) in lines.split('\n').enumerate() {
            if count == MAX_SIGNATURES {
                return Err(NoteError::Malformed);
            }
            let (name, blob) = parse_line(line)?;
            let ours = blob.strip_prefix(&self.id).filter(|_| name == self.name);
            if let Some(signature) = ours {
                self.check(text, signature)?;
                signed = true;
            }
        }
        if signed {
            Ok(text)
        } else {
            Err(NoteError::Unsigned)
        }
    }

    fn check(&self, text: &str, signature: &[u8]) -> Result<(), NoteError> {
        if signature.len() != SIGNATURE_BYTES {
            return Err(NoteError::Signature);
        }
        self.check_statement(text.as_bytes(), signature)
    }

    pub(crate) fn check_statement(&self, signed: &[u8], signature: &[u8]) -> Result<(), NoteError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(signed, signature)
            .map_err(|_| NoteError::Signature)
    }
}

/// Reads one signature line without its newline into the key's name and `key id || signature`.
fn parse_line(line: &str) -> Result<(&str, Vec<u8>), NoteError> {
    let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::Malformed)?;
    let (name, encoded) = rest.split_once(' ').ok_or(NoteError::Malformed)?;
    let blob = STANDARD.decode(encoded).map_err(|_| NoteError::Malformed)?;
    if !is_key_name(name) || blob.len() < 5 {
        return Err(NoteError::Malformed);
    }
    Ok((name, blob))
}

fn key_id(name: &str, key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', TYPE_ED25519])
        .chain_update(key)
        .finalize();
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
    [a, b, c, d]
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// No control characters but the newline.
fn is_note_text(text: &str) -> bool {
    !text.chars().any(|c| c < ' ' && c != '\n')
}

#[cfg(test)]
mod tests;
