//! One AES-256 key of a PKCS#11 token (PKCS#11 3.0, OASIS): it encrypts and decrypts in the token, and cannot leave it.
//!
//! ```text
//! key         CKO_SECRET_KEY, CKK_AES, CKA_LABEL; CKA_SENSITIVE true, CKA_EXTRACTABLE false, or it is not used
//! mechanism   CKM_AES_GCM, tag of 128 bits, additional data "attache/kms-pkcs11/1"
//! ciphertext  format u8 = 1 || length of the IV u8 || IV || ciphertext || tag 16
//! ```
//! The IV is drawn by the token, or replaced by the token's own where it makes one: what stands in the parameters after the
//! call is kept. Each operation logs in and out by itself, and after one that failed the module is ended and started anew, so
//! a token that was away is there again without a restart. A PIN that is refused once is not tried again: tokens lock
//! themselves after a few.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use attache_mtls::private_file::{PrivateFileError, read_private};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, Ulong};
use thiserror::Error as ThisError;
use zeroize::Zeroizing;

use crate::config::TokenSettings;

const FORMAT: u8 = 1;
const AAD: &[u8] = b"attache/kms-pkcs11/1";
const TAG_BYTES: usize = 16;
const TAG_BITS: u64 = 128;
const IV_BYTES: usize = 12;
/// `C_EncryptInit` and its like take no longer one of AES-GCM in any token that is known; a record says at most this.
const IV_BYTES_MAX: usize = 64;
const KEY_BYTES: u64 = 32;

/// A token's key.
pub struct TokenKey {
    module: Pkcs11,
    settings: TokenSettings,
    pin: AuthPin,
    state: Mutex<State>,
}

/// What is known of a module between two operations.
#[derive(Default)]
struct State {
    /// It was initialized.
    started: bool,
    /// The PIN was refused.
    locked_out: bool,
}

/// Why a token did not do what it was asked.
#[derive(Debug, ThisError)]
pub enum TokenError {
    /// The module is no PKCS#11 module, or does not start.
    #[error("the PKCS#11 module {module} (token.module) cannot be loaded")]
    Module {
        /// Its path.
        module: String,
        /// Why.
        source: Error,
    },
    /// The PIN's file.
    #[error("the PIN cannot be read (token.pin_file)")]
    PinFile(#[from] PrivateFileError),
    /// What the file holds is no PIN.
    #[error("the file of the PIN (token.pin_file) must hold it as UTF-8 text, and nothing else")]
    NoPin,
    /// No slot has it.
    #[error("no slot has a token with the label {label:?} (token.label); there are: {there}")]
    Absent {
        /// The label.
        label: String,
        /// Labels that were found.
        there: String,
    },
    /// More than one slot has it.
    #[error(
        "{count} tokens have the label {label:?} (token.label): give the right one a label of its own"
    )]
    Ambiguous {
        /// The label.
        label: String,
        /// How many.
        count: usize,
    },
    /// The token refused the PIN, now or before.
    #[error(
        "the token refuses the PIN (token.pin_file); it is not tried again, since tokens lock themselves: mend the file and restart"
    )]
    Pin,
    /// No key of that label, or several.
    #[error(
        "the token has {count} AES keys with the label {label:?} (token.key), and must have one: {mend}"
    )]
    Key {
        /// The label.
        label: String,
        /// How many.
        count: usize,
        /// What to do.
        mend: &'static str,
    },
    /// A key that can leave its token.
    #[error(
        "the key {label:?} can be read out of its token: use one with CKA_SENSITIVE true and CKA_EXTRACTABLE false, as create-key makes it"
    )]
    Readable {
        /// The label.
        label: String,
    },
    /// Not of 256 bits.
    #[error(
        "the key {label:?} has not 256 bits (token.key): make one by `attache-kms-pkcs11 create-key`"
    )]
    Short {
        /// The label.
        label: String,
    },
    /// Not a ciphertext of this program, or of another key.
    #[error("this is no ciphertext of the token's key")]
    Ciphertext,
    /// The token or its module failed.
    #[error("the token does not work")]
    Failed(#[source] Error),
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.settings;
        write!(f, "TokenKey({} in {})", name.key, name.label)
    }
}

/// A key as a session knows it.
struct Held {
    key: ObjectHandle,
    id: String,
}

impl TokenKey {
    /// Loads the module and reads the PIN; the token need not be there.
    ///
    /// # Errors
    /// [`TokenError::Module`], [`TokenError::PinFile`], [`TokenError::NoPin`].
    pub fn open(settings: TokenSettings) -> Result<Self, TokenError> {
        let pin = read_private(&settings.pin_file)?;
        let pin = pin.strip_suffix(b"\n").unwrap_or(&pin);
        let pin = std::str::from_utf8(pin).map_err(|_| TokenError::NoPin)?;
        if pin.is_empty() || pin.contains(['\n', '\r', '\0']) {
            return Err(TokenError::NoPin);
        }
        let pin = AuthPin::from(pin);
        let failed = |source| TokenError::Module {
            module: settings.module.display().to_string(),
            source,
        };
        let module = Pkcs11::new(&settings.module).map_err(failed)?;
        start(&module).map_err(failed)?;
        Ok(Self {
            module,
            settings,
            pin,
            state: Mutex::new(State {
                started: true,
                locked_out: false,
            }),
        })
    }

    /// The key's name for others, as RFC 7512 writes it: `pkcs11:token=..;serial=..;object=..`.
    ///
    /// # Errors
    /// When it cannot be used now.
    pub fn id(&self) -> Result<String, TokenError> {
        self.have(|session| Ok(self.held(session)?.id))
    }

    /// Encrypts; answers the ciphertext and the key's name.
    ///
    /// # Errors
    /// When the key cannot be used now.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<(Vec<u8>, String), TokenError> {
        self.have(|session| {
            let held = self.held(session)?;
            let mut iv = [0; IV_BYTES];
            session.generate_random_slice(&mut iv)?;
            let parameters = GcmParams::new(&mut iv, AAD, Ulong::from(TAG_BITS))?;
            let mechanism = Mechanism::AesGcm(parameters);
            let sealed = session.encrypt(&mechanism, held.key, plaintext)?;
            let Mechanism::AesGcm(mut parameters) = mechanism else {
                return Err(TokenError::Ciphertext);
            };
            Ok((encode(parameters.iv(), &sealed), held.id))
        })
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`TokenError::Ciphertext`] where it is none of this key's; or when the key cannot be used now.
    pub fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let (iv, sealed) = decode(ciphertext).ok_or(TokenError::Ciphertext)?;
        self.have(|session| {
            let held = self.held(session)?;
            let mut iv = iv.to_vec();
            let parameters = GcmParams::new(&mut iv, AAD, Ulong::from(TAG_BITS))?;
            let mechanism = Mechanism::AesGcm(parameters);
            match session.decrypt(&mechanism, held.key, sealed) {
                Ok(plaintext) => Ok(Zeroizing::new(plaintext)),
                Err(error) if is_wrong_ciphertext(&error) => Err(TokenError::Ciphertext),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Makes the key; one of its label must not be there.
    ///
    /// # Errors
    /// When there is one, or the token makes none.
    pub fn create(&self) -> Result<(), TokenError> {
        self.have(|session| self.create_in(session))
    }

    fn create_in(&self, session: &Session) -> Result<(), TokenError> {
        let count = self.keys(session)?.len();
        let label = &self.settings.key;
        if count != 0 {
            return Err(TokenError::Key {
                label: label.clone(),
                count,
                mend: "it is there already, and none is made",
            });
        }
        session.generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(Ulong::from(KEY_BYTES)),
                Attribute::Label(label.clone().into_bytes()),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Modifiable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
                Attribute::Derive(false),
            ],
        )?;
        Ok(())
    }

    /// Has the token's user do something. A failure that may be of the moment ends the module, which is started anew by the
    /// next operation.
    fn have<T>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.locked_out {
            return Err(TokenError::Pin);
        }
        if !state.started {
            start(&self.module)?;
            state.started = true;
        }
        let done = self.session().and_then(|session| work(&session));
        match &done {
            Err(TokenError::Pin) => state.locked_out = true,
            // A token that does not work any more may say of every ciphertext that it is wrong.
            Err(TokenError::Absent { .. } | TokenError::Failed(_) | TokenError::Ciphertext) => {
                // Whatever it says: it is started anew.
                let _ended = self.module.clone().finalize();
                state.started = false;
            }
            Ok(_) | Err(_) => {}
        }
        done
    }

    fn held(&self, session: &Session) -> Result<Held, TokenError> {
        let keys = self.keys(session)?;
        let label = &self.settings.key;
        let [key] = keys.as_slice() else {
            return Err(TokenError::Key {
                label: label.clone(),
                count: keys.len(),
                mend: if keys.is_empty() {
                    "make it by `attache-kms-pkcs11 create-key`"
                } else {
                    "give the right one a label of its own"
                },
            });
        };
        let asked = [
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::ValueLen,
        ];
        let told = session.get_attributes(*key, &asked)?;
        if !told.contains(&Attribute::ValueLen(Ulong::from(KEY_BYTES))) {
            return Err(TokenError::Short {
                label: label.clone(),
            });
        }
        let kept = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        if !kept.iter().all(|attribute| told.contains(attribute)) {
            return Err(TokenError::Readable {
                label: label.clone(),
            });
        }
        let token = self.module.get_token_info(self.slot()?)?;
        let id = format!(
            "pkcs11:token={};serial={};object={}",
            escaped(token.label()),
            escaped(token.serial_number()),
            escaped(label)
        );
        Ok(Held { key: *key, id })
    }

    /// A session of the token's user.
    fn session(&self) -> Result<Session, TokenError> {
        let session = self.module.open_rw_session(self.slot()?)?;
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinLocked
                | RvError::PinExpired
                | RvError::PinInvalid
                | RvError::PinLenRange,
                _,
            )) => Err(TokenError::Pin),
            Err(error) => Err(error.into()),
        }
    }

    fn slot(&self) -> Result<Slot, TokenError> {
        let label = &self.settings.label;
        let (mut found, mut there) = (Vec::new(), Vec::new());
        for slot in self.module.get_slots_with_initialized_token()? {
            let token = self.module.get_token_info(slot)?;
            there.push(token.label().to_owned());
            if token.label() == label {
                found.push(slot);
            }
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => Err(TokenError::Absent {
                label: label.clone(),
                there: if there.is_empty() {
                    "none".to_owned()
                } else {
                    there.join(", ")
                },
            }),
            several => Err(TokenError::Ambiguous {
                label: label.clone(),
                count: several.len(),
            }),
        }
    }

    fn keys(&self, session: &Session) -> Result<Vec<ObjectHandle>, TokenError> {
        Ok(session.find_objects(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(self.settings.key.clone().into_bytes()),
        ])?)
    }
}

fn start(module: &Pkcs11) -> Result<(), Error> {
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}

fn encode(iv: &[u8], sealed: &[u8]) -> Vec<u8> {
    let length = u8::try_from(iv.len()).unwrap_or(u8::MAX);
    [&[FORMAT, length], iv, sealed].concat()
}

/// IV and what is sealed, of a ciphertext of this program's form.
fn decode(ciphertext: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([FORMAT, length], rest) = ciphertext.split_first_chunk()? else {
        return None;
    };
    let (iv, sealed) = rest.split_at_checked(usize::from(*length))?;
    let sound = (1..=IV_BYTES_MAX).contains(&iv.len()) && sealed.len() > TAG_BYTES;
    sound.then_some((iv, sealed))
}

/// Tokens say in several ways that the tag does not fit.
fn is_wrong_ciphertext(error: &Error) -> bool {
    use RvError::{EncryptedDataInvalid, EncryptedDataLenRange, FunctionFailed, GeneralError};
    matches!(
        error,
        Error::Pkcs11(
            EncryptedDataInvalid | EncryptedDataLenRange | FunctionFailed | GeneralError,
            _
        )
    )
}

/// As RFC 7512, section 2.3 has values: all but unreserved characters are %-escaped.
fn escaped(value: &str) -> String {
    let escape = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ciphertext_is_taken_apart_as_it_was_put_together_and_others_are_not() {
        let sealed = [7; 48];
        let whole = encode(&[1; 12], &sealed);
        assert_eq!(decode(&whole), Some((&[1; 12][..], &sealed[..])));
        for cut in 0..whole.len() - 31 {
            assert!(decode(&whole[..cut]).is_none_or(|(iv, it)| iv == [1; 12] && it.len() > 16));
        }
        for wrong in [&[2, 12][..], &[1, 0], &[1, 65], &[1], &[]] {
            let hostile = [wrong, &[0; 100]].concat();
            assert!(wrong.len() < 2 || decode(&hostile).is_none(), "{wrong:?}");
        }
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn a_name_is_written_so_that_it_cannot_be_taken_for_another() {
        assert_eq!(escaped("attache-1"), "attache-1");
        assert_eq!(escaped("a;object=b %"), "a%3Bobject%3Db%20%25");
    }
}
