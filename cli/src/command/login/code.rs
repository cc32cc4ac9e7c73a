//! `attache login --new NAME --code`: another operator's one-time code for a certificate, on the enrollment listener.
//!
//! The code carries the hash of the CA's public key, so the broker is known by it; which broker it is comes from its
//! certificate, must be what its answer says, and is in the context from then on. The key is on disk before the code is
//! sent: when the answer is lost, the same command gets it again, for that key alone.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use attache_mtls::CertificateDer;
use attache_mtls::bundle::TrustBundle;
use attache_mtls::connect::Connector;
use attache_mtls::identity::{PeerIdentity, SpkiSha256};
use attache_mtls::key::LeafKey;
use attache_mtls::pem;
use attache_mtls::private_file::write_private;
use attache_mtls::spiffe::{BrokerId, PeerId};
use attache_mtls::tls::spki_pinned_client_config;
use attache_proto::attache::v1::{self as pb, enrollment_client::EnrollmentClient};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use hyper_util::rt::TokioIo;
use tower::service_fn;
use zeroize::Zeroizing;

use super::{Shell, check_chain, make_folder, missing, new_context_name, signed_in, signed_until};
use crate::args::parse::CodeSource;
use crate::command::operator::OPERATOR_CODE;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Report;
use crate::renewal::Files;
use crate::session::{self, CONNECT_LIMIT};
use crate::status;
use crate::unseal::enrollment_of;

const WHAT: &str = "the sign-in was not finished";
/// A code is never longer, with what an editor puts behind it, in bytes.
const CODE_LIMIT: u64 = 256;

/// The words of `login --new --code`. What is not given is as the context has it.
pub(super) struct ByCode {
    pub(super) operator: String,
    pub(super) address: Option<String>,
    pub(super) broker: Option<BrokerId>,
    pub(super) enroll: Option<String>,
    pub(super) source: CodeSource,
}

/// A code, and the CA that it names.
struct Code {
    text: Zeroizing<String>,
    pin: SpkiSha256,
}

/// What a broker gave for a code.
struct Given {
    chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    broker: BrokerId,
}

/// Signs in by a code.
///
/// # Errors
/// As `login`.
pub(super) async fn sign_in(new: ByCode, shell: &Shell) -> Result<Report, Failure> {
    let mut settings = shell.settings()?;
    let name = new_context_name(&settings, shell.context()?, &new.operator)?;
    let known = settings.contexts.get(&name);
    let address = new
        .address
        .or(known.map(|known| known.address.clone()))
        .ok_or_else(|| missing("--broker"))?;
    let enroll = new.enroll.or(known.and_then(|known| known.enroll.clone()));
    let at = enroll.clone().unwrap_or_else(|| enrollment_of(&address));
    let code = read(&new.source)?;
    make_folder(settings.folder()).map_err(|error| failed(&error))?;
    let beside = |suffix: &str| PathBuf::from(format!("{name}.{suffix}"));
    let files = Files {
        key: settings.resolve(&beside("key")),
        certificate: settings.resolve(&beside("crt")),
        trust_bundle: settings.resolve(&beside("trust-bundle.pem")),
        owns_bundle: true,
    };
    let key = key(&files)?;
    let given = redeem(&code, &new.operator, &at, &key).await?;
    if new.broker.is_some_and(|broker| broker != given.broker) {
        return Err(refused(format!(
            "the broker there is {}, which --broker-id does not name",
            given.broker
        )));
    }
    let context = Context {
        address,
        broker: given.broker,
        enroll,
        operator: Some(new.operator),
        trust_bundle: beside("trust-bundle.pem"),
        certificate: beside("crt"),
        key: beside("key"),
        renew_until: None,
    };
    let bundle_pem = given.bundle.to_pem();
    check_chain(&given.chain, &key, given.bundle, &context).map_err(refused)?;
    write_private(&files.trust_bundle, bundle_pem.as_bytes()).map_err(|error| failed(&error))?;
    write_private(
        &files.certificate,
        pem::encode_certificates(&given.chain).as_bytes(),
    )
    .map_err(|error| failed(&error))?;
    settings.contexts.insert(name.clone(), context);
    settings.current.get_or_insert_with(|| name.clone());
    signed_until(&mut settings, &name)?;
    settings.write()?;
    signed_in(&settings, &name)
}

/// The key of a sign-in that was begun and got no answer, or a new one, on disk.
fn key(files: &Files) -> Result<LeafKey, Failure> {
    if !files.certificate.exists()
        && files.key.exists()
        && let Ok(key) = LeafKey::read(&files.key)
    {
        return Ok(key);
    }
    let key = LeafKey::generate().map_err(|error| failed(&error))?;
    files.forget_certificate()?;
    key.write(&files.key).map_err(|error| failed(&error))?;
    Ok(key)
}

async fn redeem(code: &Code, name: &str, enroll: &str, key: &LeafKey) -> Result<Given, Failure> {
    let tls = spki_pinned_client_config(code.pin).map_err(|error| failed(&error))?;
    let connector = Connector::new(tls, CONNECT_LIMIT);
    let peer: Arc<Mutex<Option<Arc<PeerIdentity>>>> = Arc::default();
    let (seen, to) = (Arc::clone(&peer), enroll.to_owned());
    let open = service_fn(move |_: Uri| {
        let (connector, seen, to) = (connector.clone(), Arc::clone(&seen), to.clone());
        async move {
            let stream = connector.connect(to).await?;
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = stream.connect_info().peer;
            Ok(TokioIo::new(stream))
        }
    });
    let channel = session::channel(enroll, open)?;
    let csr = key.certificate_request().map_err(|error| failed(&error))?;
    let answer = session::attempt(&channel, &(), |channel, _| {
        let request = pb::SignInOperatorRequest {
            code: code.text.as_str().to_owned(),
            csr: csr.clone(),
            name: name.to_owned(),
        };
        async move {
            EnrollmentClient::new(channel)
                .sign_in_operator(request)
                .await
        }
    })
    .await
    .map_err(|error| {
        let failure = status::failure(WHAT, &error);
        if status::answer_was_lost(&error) {
            return failure.mend("run it again: the code is still good for the same key");
        }
        failure
    })?;
    let proven = peer
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .and_then(|peer| match peer.id() {
            PeerId::Broker(broker) => Some(broker.clone()),
            PeerId::Node(_) | PeerId::Operator(_) => None,
        });
    let broker = proven.filter(|broker| broker.to_string() == answer.broker_id);
    let broker =
        broker.ok_or_else(|| refused("the answer names another broker than its certificate"))?;
    let certificate = answer
        .certificate
        .ok_or_else(|| refused("the answer holds no certificate"))?;
    let der = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
    let bundle =
        TrustBundle::from_der(der(certificate.trust_bundle)).map_err(|error| failed(&error))?;
    if !bundle.pins().any(|pin| pin == code.pin) {
        return Err(refused("the trust bundle lacks the CA that the code names"));
    }
    Ok(Given {
        chain: der(certificate.chain),
        bundle,
        broker,
    })
}

/// Reads a code. No error repeats it.
fn read(source: &CodeSource) -> Result<Code, Failure> {
    let (shown, read) = match source {
        CodeSource::Stdin => ("standard input".to_owned(), capped(&mut io::stdin().lock())),
        CodeSource::File(path) => {
            let opened = File::open(path).and_then(|mut file| capped(&mut file));
            (path.display().to_string(), opened)
        }
    };
    let bytes = read.map_err(|error| {
        Failure::new(Exit::Failed, format!("the code was not read from {shown}")).caused_by(&error)
    })?;
    let text = std::str::from_utf8(&bytes).ok();
    text.and_then(|text| parse(text.trim_ascii()))
        .ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!("{shown} holds no code: it begins with {OPERATOR_CODE}"),
            )
            .mend("another operator makes one with: attache operator add")
        })
}

fn capped(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    from.take(CODE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(text: &str) -> Option<Code> {
    let decoded = URL_SAFE_NO_PAD.decode(text.strip_prefix(OPERATOR_CODE)?);
    let decoded = Zeroizing::new(decoded.ok()?);
    // id 16, secret 32, pin 32.
    let pin = *decoded.last_chunk::<32>().filter(|_| decoded.len() == 80)?;
    Some(Code {
        text: Zeroizing::new(text.to_owned()),
        pin: SpkiSha256::from_bytes(pin),
    })
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Failed, WHAT).caused_by(error)
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(Exit::Failed, WHAT).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_vectors() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/independent/vectors/operator-code.json"
        );
        let text = std::fs::read_to_string(file).unwrap();
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (mut good, mut refused) = (0, 0);
        for case in whole["cases"].as_array().unwrap() {
            if case.get("refused").is_some() {
                refused += 1;
                let text = case["in"]["text"].as_str().unwrap();
                assert!(parse(text).is_none(), "{}", case["name"]);
            } else {
                good += 1;
                let code = parse(case["out"]["text"].as_str().unwrap()).unwrap();
                assert_eq!(code.pin.to_string(), case["in"]["pin"].as_str().unwrap());
            }
        }
        assert!(good > 0 && refused > 0);
    }

    #[test]
    fn a_file_may_end_in_a_newline_and_what_is_no_code_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code");
        let source = CodeSource::File(path.clone());
        let good = format!("{OPERATOR_CODE}{}A", "A".repeat(106));
        std::fs::write(&path, format!("{good}\n")).unwrap();
        assert_eq!(read(&source).ok().unwrap().text.as_str(), good);
        std::fs::write(&path, "canary-5e1f").unwrap();
        let failure = read(&source).err().unwrap().to_string();
        assert!(
            failure.contains(OPERATOR_CODE) && !failure.contains("canary"),
            "{failure}"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(read(&source).is_err());
    }

    #[test]
    fn the_enrollment_listener_is_on_the_same_host() {
        for (address, enroll) in [
            ("broker.example:7443", "broker.example:7444"),
            ("127.0.0.1:17443", "127.0.0.1:7444"),
            ("[::1]:7443", "[::1]:7444"),
        ] {
            assert_eq!(enrollment_of(address), enroll);
        }
    }
}
