//! The operator's certificate: loading it, renewing it at half life, and never being left with half a pair.
//!
//! ```text
//! default.key   default.crt                              the pair in use
//! default.key.next                                       written before its request is sent, reused until it is answered
//! default.key.next   default.crt.next                    answered
//! default.key   default.crt.next, then default.crt       each rename is durable before the next step
//! ```
//!
//! A crash between two steps leaves what [`load`] completes. The broker admits the old key for ten minutes after the
//! first call with the new one, and takes a later call with it for a copy of the identity; so one process renews at a
//! time (`default.key.lock`), and every process loads the pair when it connects, not before it asks its user something.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attache_mtls::CertificateDer;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::key::{KeyError, LeafKey};
use attache_mtls::pem;
use attache_mtls::private_file::{PrivateFileError, write_private};
use attache_mtls::public_file::read_public;
use attache_mtls::renew::{Freshness, Jitter, OPERATOR_RENEWS_FOR, Renewal};
use attache_mtls::spiffe::PeerId;
use attache_mtls::tls::{Credentials, Material, MaterialError};
use attache_mtls::verify::Purpose;
use attache_proto::attache::v1::{self as pb, renewal_client::RenewalClient};
use jiff::Timestamp;

use crate::context::{Context, Settings};
use crate::failure::{Exit, Failure};
use crate::output::Console;
use crate::session::Session;
use crate::status;

/// How an operator signs in again whose context is there.
pub const SIGN_IN_AGAIN: &str = "attache login --new NAME --csr OUT";
/// Files of PEM are never larger than this.
const PEM_LIMIT_BYTES: u64 = 256 * 1024;

/// The files of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The key in use.
    pub key: PathBuf,
    /// Its certificate chain.
    pub certificate: PathBuf,
    /// The CA certificates.
    pub trust_bundle: PathBuf,
    /// Whether the bundle is a copy of ours, which a renewal may replace.
    pub owns_bundle: bool,
}

/// A loaded identity.
#[derive(Debug)]
pub struct Identity {
    /// For connections.
    pub credentials: Credentials,
    /// Where it came from.
    pub files: Files,
    plan: Renewal,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What a certificate's age asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A renewal.
    Renew,
}

/// How a renewal went.
#[derive(Debug)]
pub enum Renewed {
    /// There is a new certificate.
    Now(Box<Identity>),
    /// Another process renews, or has renewed.
    BySomebodyElse,
}

impl Files {
    /// The files that a context names.
    #[must_use]
    pub fn of(settings: &Settings, context: &Context) -> Self {
        Self {
            key: settings.resolve(&context.key),
            certificate: settings.resolve(&context.certificate),
            trust_bundle: settings.resolve(&context.trust_bundle),
            owns_bundle: context.trust_bundle.components().count() == 1,
        }
    }

    /// Takes the certificate away, and what a renewal may have left: the context waits for a new one.
    ///
    /// # Errors
    /// [`Exit::Failed`] when a file cannot be removed.
    pub fn forget_certificate(&self) -> Result<(), Failure> {
        let _lock = self.lock(true)?;
        for file in [
            self.next_certificate(),
            self.next_key(),
            self.certificate.clone(),
        ] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let what = format!("{} was not removed", file.display());
                    return Err(Failure::new(Exit::Failed, what).caused_by(&error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn next_key(&self) -> PathBuf {
        with_suffix(&self.key, ".next")
    }

    fn next_certificate(&self) -> PathBuf {
        with_suffix(&self.certificate, ".next")
    }

    /// Takes the lock that one renewal at a time holds; waits for it if told so.
    fn lock(&self, wait: bool) -> Result<Option<File>, Failure> {
        let path = with_suffix(&self.key, ".lock");
        let failed = |error: &std::io::Error| {
            Failure::new(Exit::Failed, format!("{} cannot be locked", path.display()))
                .caused_by(error)
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(&error))?;
        if wait {
            file.lock().map_err(|error| failed(&error))?;
            return Ok(Some(file));
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(failed(&error)),
        }
    }
}

/// Loads a context's identity, after completing what a crash may have left.
///
/// # Errors
/// [`Exit::NotSignedIn`] when there is no certificate yet; [`Exit::Failed`] when a file is unusable.
pub fn load(settings: &Settings, name: &str, context: &Context) -> Result<Identity, Failure> {
    let files = Files::of(settings, context);
    if !files.certificate.exists() && !files.next_certificate().exists() {
        return Err(Failure::new(
            Exit::NotSignedIn,
            format!("context {name} has no certificate yet"),
        )
        .mend("have its request signed, then: attache login --finish CHAIN.pem"));
    }
    if files.next_certificate().exists() {
        let _lock = files.lock(true)?;
        complete(&files)?;
    }
    let identity = match read_pair(&files) {
        // Between another process's two renames: what is there after it is whole.
        Err(PairError::Mismatch) => {
            let _lock = files.lock(true)?;
            complete(&files)?;
            read_pair(&files)
        }
        other => other,
    };
    let identity = identity.map_err(|error| match error {
        PairError::Mismatch => Failure::new(
            Exit::Failed,
            format!("key and certificate of context {name} do not belong together"),
        )
        .mend("sign in again: attache login --new NAME with another --context"),
        PairError::Other(failure) => failure,
    })?;
    check_name(name, context, identity.credentials.id())?;
    Ok(identity)
}

impl Identity {
    /// What the certificate's age asks for.
    ///
    /// # Errors
    /// [`Exit::NotSignedIn`] when it has ended.
    pub fn due(&self, context: &Context, console: &Console) -> Result<Due, Failure> {
        let now = Timestamp::now();
        match self.plan.freshness(now) {
            Freshness::Expired { not_after } => Err(expired(not_after)),
            Freshness::Due { not_after }
                if context.renew_until.is_some_and(|until| now >= until) =>
            {
                console.hint(&format!(
                    "seven days are over: this sign-in ends at {not_after}; sign in again: {SIGN_IN_AGAIN}"
                ));
                Ok(Due::Nothing)
            }
            Freshness::Due { .. } => Ok(Due::Renew),
            Freshness::Fresh { .. } => Ok(Due::Nothing),
        }
    }

    /// The certificate's first second.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second of the certificate.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// Until when a certificate renews itself that was signed at `signed_in`, in whole seconds. The broker counts the same days.
#[must_use]
pub fn until(signed_in: Timestamp) -> Option<Timestamp> {
    let end = signed_in.checked_add(OPERATOR_RENEWS_FOR).ok()?;
    Timestamp::from_second(end.as_second()).ok()
}

/// Says that the certificate has ended.
#[must_use]
pub fn expired(not_after: Timestamp) -> Failure {
    Failure::new(Exit::NotSignedIn, "not signed in any more")
        .because(format!("the certificate ended at {not_after}"))
        .mend(format!(
            "sign in again: {SIGN_IN_AGAIN}, and have the request signed"
        ))
}

/// Has a new key signed, and puts the new pair in the place of the old one.
///
/// # Errors
/// The broker's refusal, or a file that cannot be written. The old pair is in place then.
///
/// # Cancel safety
/// May be dropped at any time: what is half done is completed by the next [`load`].
pub async fn renew(session: &Session, identity: &Identity) -> Result<Renewed, Failure> {
    const WHAT: &str = "the certificate was not renewed";
    let files = &identity.files;
    let Some(_lock) = files.lock(false)? else {
        return Ok(Renewed::BySomebodyElse);
    };
    if read_pair(files).is_ok_and(|now| {
        now.credentials.current().chain() != identity.credentials.current().chain()
    }) {
        return Ok(Renewed::BySomebodyElse);
    }
    let key = next_key(files)?;
    let csr = key
        .certificate_request()
        .map_err(|error| Failure::new(Exit::Failed, WHAT).caused_by(&error))?;
    let request = pb::RenewRequest {
        csr,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer: pb::RenewResponse = session
        .attempt(&request, |channel, request| async move {
            RenewalClient::new(channel).renew(request).await
        })
        .await
        .map_err(|status| status::failure(WHAT, &status))?;
    let issued = answer.certificate.ok_or_else(|| {
        Failure::new(Exit::Failed, WHAT).because("the broker's answer holds no certificate")
    })?;
    let (chain, bundle) = check_issued(&issued, &key, identity)
        .map_err(|why| Failure::new(Exit::Failed, WHAT).because(why))?;
    let written = |error: PrivateFileError| Failure::new(Exit::Failed, WHAT).caused_by(&error);
    if files.owns_bundle && bundle != **identity.credentials.current().bundle() {
        write_private(&files.trust_bundle, bundle.to_pem().as_bytes()).map_err(written)?;
    }
    write_private(
        &files.next_certificate(),
        pem::encode_certificates(&chain).as_bytes(),
    )
    .map_err(written)?;
    complete(files)?;
    match read_pair(files) {
        Ok(identity) => Ok(Renewed::Now(Box::new(identity))),
        Err(PairError::Other(failure)) => Err(failure),
        Err(PairError::Mismatch) => {
            Err(Failure::new(Exit::Failed, WHAT)
                .because("key and certificate do not belong together"))
        }
    }
}

/// The key of a renewal that was not answered, else a new one, which is on disk before anything is sent.
fn next_key(files: &Files) -> Result<LeafKey, Failure> {
    let failed = |error| Failure::new(Exit::Failed, "the next key was not made").caused_by(&error);
    let path = files.next_key();
    match read_key(&path) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => {
            let key = LeafKey::generate().and_then(|key| key.write(&path).map(|()| key));
            key.map_err(failed)
        }
        // The broker may have answered for it.
        Err(error) => Err(failed(error)),
    }
}

/// Holds an issued certificate against the key, the name and the roots that it must fit.
fn check_issued(
    issued: &pb::IssuedCertificate,
    key: &LeafKey,
    old: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, TrustBundle), String> {
    let ders = |ders: &[Vec<u8>]| {
        ders.iter()
            .cloned()
            .map(CertificateDer::from)
            .collect::<Vec<_>>()
    };
    let bundle = TrustBundle::from_der(ders(&issued.trust_bundle))
        .map_err(|error| crate::failure::chain(&error))?;
    let chain = ders(&issued.chain);
    let peer = bundle
        .verify(&chain, Purpose::Client, Timestamp::now())
        .map_err(|error| crate::failure::chain(&error))?;
    if peer.id() != old.credentials.id() {
        return Err(format!("the new certificate is for {}", peer.id()));
    }
    if peer.spki_sha256() != key.spki_sha256() {
        return Err("the new certificate is for another key".to_owned());
    }
    Ok((chain, bundle))
}

/// Reads a key; none when there is no such file.
fn read_key(path: &Path) -> Result<Option<LeafKey>, KeyError> {
    match LeafKey::read(path) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::File(PrivateFileError::Io { source, .. }))
            if source.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Moves an answered renewal into place; a certificate that is for neither key is a leftover and goes. Where a key
/// cannot be read, nobody knows that, and it stays. The caller holds the lock.
fn complete(files: &Files) -> Result<(), Failure> {
    let next = files.next_certificate();
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, "the renewed certificate was not put in place").caused_by(error)
    };
    let text = match read_pem(&next) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let bundle = Arc::new(read_bundle(&files.trust_bundle)?);
    let fits = |key: &Path| -> Result<bool, Failure> {
        let Some(key) = read_key(key).map_err(|error| failed(&error))? else {
            return Ok(false);
        };
        match Material::from_pem(&text, &key, Arc::clone(&bundle)) {
            Ok(_) => Ok(true),
            Err(MaterialError::Mismatch) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    };
    let next_key = files.next_key();
    let step = if fits(&next_key)? {
        rename_durably(&next_key, &files.key)
            .and_then(|()| rename_durably(&next, &files.certificate))
    } else if fits(&files.key)? {
        rename_durably(&next, &files.certificate)
    } else {
        fs::remove_file(&next)
    };
    step.map_err(|error| failed(&error))
}

fn rename_durably(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    let folder = to
        .parent()
        .filter(|folder| *folder != Path::new(""))
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

enum PairError {
    Mismatch,
    Other(Failure),
}

fn read_pair(files: &Files) -> Result<Identity, PairError> {
    let unusable = |what: &Path, error: &(dyn std::error::Error + 'static)| {
        PairError::Other(
            Failure::new(Exit::Failed, format!("{} cannot be used", what.display()))
                .caused_by(error),
        )
    };
    let key = LeafKey::read(&files.key).map_err(|error| unusable(&files.key, &error))?;
    let chain =
        read_pem(&files.certificate).map_err(|error| unusable(&files.certificate, &error))?;
    let bundle = read_bundle(&files.trust_bundle).map_err(PairError::Other)?;
    let material = match Material::from_pem(&chain, &key, Arc::new(bundle)) {
        Ok(material) => material,
        Err(MaterialError::Mismatch) => return Err(PairError::Mismatch),
        Err(error) => return Err(unusable(&files.certificate, &error)),
    };
    let (not_before, not_after) = (
        material.identity().not_before(),
        material.identity().not_after(),
    );
    // One person's commands come when they come: no fleet to spread, so the middle of the life and no draw.
    let plan = Renewal::new(not_before, not_after, Jitter::from_u32(1 << 31));
    Ok(Identity {
        credentials: Credentials::new(material),
        files: files.clone(),
        plan,
        not_before,
        not_after,
    })
}

fn check_name(name: &str, context: &Context, id: &PeerId) -> Result<(), Failure> {
    let fits = match id {
        PeerId::Operator(operator) => {
            operator.trust_domain() == context.broker.trust_domain()
                && context
                    .operator
                    .as_deref()
                    .is_none_or(|wanted| wanted == operator.name())
        }
        PeerId::Node(_) | PeerId::Broker(_) => false,
    };
    if fits {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("the certificate of context {name} is for {id}"))
        .mend("it must be for this context's operator and trust domain: sign in again by attache login --new"))
}

/// Reads a trust bundle.
///
/// # Errors
/// [`Exit::Failed`] when it is unreadable or no bundle.
pub fn read_bundle(path: &Path) -> Result<TrustBundle, Failure> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(
            Exit::Failed,
            format!("the trust bundle {} cannot be used", path.display()),
        )
        .caused_by(error)
    };
    let text = read_pem(path).map_err(|error| refused(&error))?;
    TrustBundle::from_pem(&text).map_err(|error| refused(&error))
}

/// Reads a file of PEM that is no secret.
///
/// # Errors
/// Those of the file; one that is too large.
pub fn read_pem(path: &Path) -> std::io::Result<Vec<u8>> {
    read_public(path, PEM_LIMIT_BYTES)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
pub(crate) mod tests;
