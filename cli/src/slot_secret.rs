//! A slot's secret on its way to the broker: that of a key file, which keeps it here, or a passphrase.
//!
//! ```text
//! BeginSlot -> store, receive key     seal -> the secret by HPKE; aad = digest of what is asked for, its request id included
//! ```
//! The secret is drawn, read and sealed in memory that is wiped; nothing leaves this module that is not sealed, but for the
//! key file itself. The broker that answered must be the pinned one.

use std::path::Path;

use attache_envelope::id::{RequestId, SlotId, StoreId};
use attache_envelope::key::{KEY_BYTES, SlotSecret};
use attache_envelope::slot::passphrase::of_file;
use attache_envelope::slot::{
    KEY_FILE_BYTES, SlotKind, SlotRequest, SlotVerb, parse_key_file, write_key_file,
};
use attache_envelope::{EnvelopeError, Random, SystemRandom};
use attache_mtls::private_file::{PrivateFileError, create_private_once, read_private};
use attache_proto::attache::v1::{self as pb, slots_client::SlotsClient};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::offered::{Offer, Offered};
use crate::session::Session;
use crate::unseal::Secret;

/// The secret of a key file. Boxed, so that moving it leaves no copy.
pub struct KeyFile(Secret);

/// A broker's answer to `BeginSlot`, checked.
#[derive(Debug)]
pub struct Begun(Offered);

/// What a secret is sent for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// What is asked for.
    pub verb: SlotVerb,
    /// The request.
    pub request: Uuid,
    /// The slot.
    pub slot: SlotId,
    /// How its secret is had.
    pub kind: SlotKind,
    /// A new slot's name; else empty.
    pub name: &'a str,
}

/// Draws a secret of a new slot.
///
/// # Errors
/// [`EnvelopeError::Random`].
pub fn random_secret() -> Result<Secret, EnvelopeError> {
    let mut secret = Box::new(Zeroizing::new([0; KEY_BYTES]));
    SystemRandom.fill(secret.as_mut_slice())?;
    Ok(secret)
}

impl KeyFile {
    /// Draws a new secret.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn random() -> Result<Self, EnvelopeError> {
        random_secret().map(Self)
    }

    /// Reads a key file, which nobody but its owner may read.
    ///
    /// # Errors
    /// [`Exit::Failed`].
    pub fn read(path: &Path, what: &str) -> Result<Self, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, what).caused_by(error)
        };
        let text = read_private(path).map_err(|error| failed(&error))?;
        let mut secret = Box::new(Zeroizing::new([0; KEY_BYTES]));
        parse_key_file(&text, &mut secret).map_err(|error| failed(&error))?;
        Ok(Self(secret))
    }

    /// The secret itself, to be sealed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Writes a new key file, 0400, durably; never over another file.
    ///
    /// # Errors
    /// [`PrivateFileError`].
    pub fn create(&self, path: &Path) -> Result<(), PrivateFileError> {
        let mut text = Zeroizing::new([0; KEY_FILE_BYTES]);
        write_key_file(SlotSecret::new(&self.0), &mut text);
        create_private_once(path, text.as_slice())
    }
}

/// Reads a passphrase from a file, which nobody but its owner may read: its bytes without a newline at their end.
///
/// # Errors
/// [`Exit::Failed`].
pub fn passphrase_of(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text =
        read_private(path).map_err(|error| Failure::new(Exit::Failed, what).caused_by(&error))?;
    Ok(Zeroizing::new(of_file(&text).to_vec()))
}

/// Asks the broker what to seal to.
///
/// # Errors
/// As [`crate::status`] says; [`Exit::Failed`] when another broker than the pinned one answers.
pub async fn begin(session: &Session, what: &str) -> Result<Begun, Failure> {
    let answer: pb::BeginSlotResponse = session
        .read(
            what,
            &pb::BeginSlotRequest {},
            |channel, request| async move { SlotsClient::new(channel).begin_slot(request).await },
        )
        .await?;
    Begun::check(&answer, &session.broker().to_string())
        .map_err(|why| Failure::new(Exit::Failed, what).because(why))
}

impl Begun {
    /// Checks a broker's answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(answer: &pb::BeginSlotResponse, pinned: &str) -> Result<Self, String> {
        let offer = Offer {
            broker_id: &answer.broker_id,
            store: &answer.store,
            receive_key: &answer.receive_key,
            key_id: &answer.key_id,
            boot: &answer.boot,
        };
        Offered::check(&offer, pinned).map(Self)
    }

    /// The broker's store.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.0.store
    }

    /// Seals a secret for one request.
    ///
    /// # Errors
    /// [`EnvelopeError`] for a receive key that is none, or without randomness.
    pub fn seal(
        &self,
        operator: &str,
        broker: &str,
        purpose: &Purpose<'_>,
        secret: &[u8],
    ) -> Result<pb::SealedSecret, EnvelopeError> {
        let request = SlotRequest {
            verb: purpose.verb,
            store: self.0.store,
            request: RequestId::from_bytes(purpose.request.into_bytes()),
            slot: purpose.slot,
            kind: purpose.kind,
            name: purpose.name,
        };
        let channel = self.0.channel(broker, operator);
        let (enc, sealed) =
            request.seal_secret(&SystemRandom, &self.0.receive_key, &channel, secret)?;
        Ok(pb::SealedSecret {
            key_id: self.0.key_id.as_bytes().to_vec(),
            boot: self.0.boot.as_bytes().to_vec(),
            enc: enc.as_bytes().to_vec(),
            sealed,
        })
    }
}
