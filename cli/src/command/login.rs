//! `attache login`: a key and a request, then the certificate for it; and renewing it by hand.
//!
//! With another operator's code both are one step (`code`). The key is made here and never leaves. Between `--new` and
//! `--finish` there is a context without a certificate; what `--finish` takes must be for that key, that operator and that broker's trust domain, and verify under the bundle.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attache_mtls::bundle::TrustBundle;
use attache_mtls::key::LeafKey;
use attache_mtls::pem;
use attache_mtls::private_file::write_private;
use attache_mtls::spiffe::{BrokerId, PeerId};
use attache_mtls::tls::Material;
use attache_mtls::verify::Purpose;
use jiff::Timestamp;
use serde::Serialize;

use super::Shell;
use crate::args::login::Login;
use crate::context::{Context, Settings};
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report};
use crate::renewal::{self, Files, Renewed, read_bundle, read_pem};
use crate::session::Session;
use code::ByCode;

mod code;

const DEFAULT: &str = "default";

#[derive(Debug, Serialize)]
struct LoginJson {
    context: String,
    operator: String,
    broker: String,
    not_after: Option<String>,
    renew_until: Option<String>,
}

/// A sign-in that begins: the words of `login --new`. What is not given is as the context has it.
struct New {
    operator: String,
    address: Option<String>,
    enroll: Option<String>,
    broker: Option<BrokerId>,
    trust_bundle: Option<PathBuf>,
    csr: PathBuf,
}

/// Signs in, in one of the four forms.
///
/// # Errors
/// [`Exit::Precondition`] when something stands where the sign-in would write; else as each step says.
pub async fn login(args: Login, shell: &Shell) -> Result<Report, Failure> {
    match (args.new, args.csr, args.code, args.finish) {
        (None, None, None, None) => renew(shell).await,
        (None, None, None, Some(chain)) => finish(&chain, shell),
        (Some(operator), None, Some(source), None) => {
            let new = ByCode {
                operator,
                address: args.broker,
                broker: args.broker_id,
                enroll: args.enroll,
                source,
            };
            code::sign_in(new, shell).await
        }
        (Some(operator), Some(csr), None, None) => begin(
            New {
                operator,
                address: args.broker,
                enroll: args.enroll,
                broker: args.broker_id,
                trust_bundle: args.trust_bundle,
                csr,
            },
            shell,
        ),
        _ => Err(Failure::usage("these words do not go together").mend("see attache login --help")),
    }
}

fn begin(new: New, shell: &Shell) -> Result<Report, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, "the sign-in was not begun").caused_by(error)
    };
    let mut settings = shell.settings()?;
    let name = new_context_name(&settings, shell.context()?, &new.operator)?;
    let known = settings.contexts.get(&name);
    let again = known.is_some_and(|context| !is_waiting(&settings, context));
    let bundle = match (&new.trust_bundle, known) {
        (Some(file), _) => read_bundle(file)?,
        (None, Some(known)) => read_bundle(&settings.resolve(&known.trust_bundle))?,
        (None, None) => return Err(missing("--trust-bundle")),
    };
    let context = Context {
        address: new
            .address
            .or(known.map(|known| known.address.clone()))
            .ok_or_else(|| missing("--broker"))?,
        broker: new
            .broker
            .or(known.map(|known| known.broker.clone()))
            .ok_or_else(|| missing("--broker-id"))?,
        enroll: new.enroll.or(known.and_then(|known| known.enroll.clone())),
        operator: Some(new.operator),
        trust_bundle: PathBuf::from(format!("{name}.trust-bundle.pem")),
        certificate: PathBuf::from(format!("{name}.crt")),
        key: PathBuf::from(format!("{name}.key")),
        renew_until: None,
    };
    let files = Files::of(&settings, &context);
    let key = LeafKey::generate().map_err(|error| failed(&error))?;
    let csr = key.certificate_request().map_err(|error| failed(&error))?;
    write_new(
        &new.csr,
        pem::encode("CERTIFICATE REQUEST", &csr).as_bytes(),
    )?;
    make_folder(settings.folder()).map_err(|error| failed(&error))?;
    files.forget_certificate()?;
    key.write(&files.key).map_err(|error| failed(&error))?;
    write_private(&files.trust_bundle, bundle.to_pem().as_bytes())
        .map_err(|error| failed(&error))?;
    let data = LoginJson {
        context: name.clone(),
        operator: context.operator.clone().unwrap_or_default(),
        broker: context.broker.to_string(),
        not_after: None,
        renew_until: None,
    };
    settings.contexts.insert(name.clone(), context);
    settings.current.get_or_insert_with(|| name.clone());
    settings.write()?;
    let console = &shell.console;
    console.hint("the broker is known by the CA key");
    for pin in bundle.pins() {
        console.hint(&format!("  SHA-256 {pin}"));
    }
    console.hint("compare it with the broker's");
    let (when, recover) = if again {
        (", with the broker stopped", " --recover")
    } else {
        ("", "")
    };
    let lines = vec![
        format!("context {name} waits for its certificate. On the broker's machine{when}:"),
        format!(
            "  attache-broker bootstrap operator {} --csr {}{recover} > chain.pem",
            data.operator,
            new.csr.display()
        ),
        "then here:".to_owned(),
        "  attache login --finish chain.pem".to_owned(),
    ];
    Report::new(&data, vec![name], Human::Lines(lines))
}

fn missing(word: &str) -> Failure {
    Failure::usage(format!("{word} is missing")).mend(
        "the first sign-in of a context names its broker: --broker ADDR --broker-id ID --trust-bundle FILE",
    )
}

/// The context of a new sign-in: the one that was named, else `default`, else one named after the operator. A context
/// that waits may begin anew, and so may one of this operator whose sign-in is over; no other is overwritten.
fn new_context_name(
    settings: &Settings,
    named: Option<String>,
    operator: &str,
) -> Result<String, Failure> {
    let free = |name: &str| {
        settings
            .contexts
            .get(name)
            .is_none_or(|context| may_begin(settings, name, context, operator))
    };
    if let Some(name) = named {
        return if free(&name) {
            Ok(name)
        } else {
            Err(taken(&name))
        };
    }
    if free(DEFAULT) {
        return Ok(DEFAULT.to_owned());
    }
    let name = crate::args::parse::context_name(operator).map_err(|_| taken(DEFAULT))?;
    if free(&name) {
        Ok(name)
    } else {
        Err(taken(&name))
    }
}

fn taken(name: &str) -> Failure {
    Failure::new(
        Exit::Precondition,
        format!("context {name} has a certificate already"),
    )
    .mend("renew it by `attache login`, or choose another name by --context")
}

fn may_begin(settings: &Settings, name: &str, context: &Context, operator: &str) -> bool {
    if is_waiting(settings, context) {
        return true;
    }
    if context.operator.as_deref() != Some(operator) {
        return false;
    }
    let now = Timestamp::now();
    // A pair that cannot be used is no sign-in.
    renewal::load(settings, name, context).map_or(true, |identity| {
        now > identity.not_after() || context.renew_until.is_some_and(|until| now >= until)
    })
}

fn is_waiting(settings: &Settings, context: &Context) -> bool {
    let absent = |path: &Path| !settings.resolve(path).exists();
    absent(&context.certificate)
}

fn finish(chain: &Path, shell: &Shell) -> Result<Report, Failure> {
    const WHAT: &str = "the sign-in was not finished";
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, WHAT).caused_by(error)
    };
    let mut settings = shell.settings()?;
    let name = waiting_context(&settings, shell.context()?)?;
    let (_, context) = settings.pick(Some(&name))?;
    let files = Files::of(&settings, context);
    let text = read_pem(chain).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} was not read", chain.display())).caused_by(&error)
    })?;
    let certificates = pem::certificates(&text).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} is no certificate chain", chain.display()),
        )
        .caused_by(&error)
        .mend("give what attache-broker bootstrap operator printed")
    })?;
    let key = LeafKey::read(&files.key).map_err(|error| failed(&error))?;
    let bundle = read_bundle(&files.trust_bundle)?;
    check_chain(&certificates, &key, bundle, context)
        .map_err(|why| Failure::new(Exit::Failed, WHAT).because(why))?;
    write_private(
        &files.certificate,
        pem::encode_certificates(&certificates).as_bytes(),
    )
    .map_err(|error| failed(&error))?;
    signed_until(&mut settings, &name)?;
    settings.write()?;
    signed_in(&settings, &name)
}

/// Counts the days of renewals from the certificate that a context has got.
fn signed_until(settings: &mut Settings, name: &str) -> Result<(), Failure> {
    let (_, context) = settings.pick(Some(name))?;
    let signed_at = renewal::load(settings, name, context)?.not_before();
    if let Some(context) = settings.contexts.get_mut(name) {
        context.renew_until = renewal::until(signed_at);
    }
    Ok(())
}

/// The context that waits for a certificate: the one that was named, else the only one.
fn waiting_context(settings: &Settings, named: Option<String>) -> Result<String, Failure> {
    let begin_first = "begin first: attache login --new NAME --broker ADDR --broker-id ID --trust-bundle FILE --csr OUT";
    let waiting: Vec<&String> = settings
        .contexts
        .iter()
        .filter(|(_, context)| is_waiting(settings, context))
        .map(|(name, _)| name)
        .collect();
    match (named, waiting.as_slice()) {
        (Some(name), _) if waiting.contains(&&name) => Ok(name),
        (Some(name), _) => Err(Failure::new(
            Exit::Precondition,
            format!("context {name} waits for no certificate"),
        )
        .mend(begin_first)),
        (None, [one]) => Ok((*one).clone()),
        (None, []) => Err(
            Failure::new(Exit::Precondition, "no context waits for a certificate")
                .mend(begin_first),
        ),
        (None, several) => {
            let names = several
                .iter()
                .map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            Err(Failure::usage("several contexts wait for a certificate")
                .mend(format!("name one by --context: {names}")))
        }
    }
}

fn check_chain(
    chain: &[attache_mtls::CertificateDer<'static>],
    key: &LeafKey,
    bundle: TrustBundle,
    context: &Context,
) -> Result<(), String> {
    let peer = bundle
        .verify(chain, Purpose::Client, Timestamp::now())
        .map_err(|error| crate::failure::chain(&error))?;
    let fits = match peer.id() {
        PeerId::Operator(id) => {
            id.trust_domain() == context.broker.trust_domain()
                && context
                    .operator
                    .as_deref()
                    .is_none_or(|name| name == id.name())
        }
        PeerId::Node(_) | PeerId::Broker(_) => false,
    };
    if !fits {
        let operator = context.operator.as_deref().unwrap_or("this operator");
        return Err(format!(
            "the certificate is for {}, and {operator} asked for one",
            peer.id()
        ));
    }
    Material::new(chain.to_vec(), key, Arc::new(bundle))
        .map(drop)
        .map_err(|error| crate::failure::chain(&error))
}

async fn renew(shell: &Shell) -> Result<Report, Failure> {
    let settings = shell.settings()?;
    let (name, context) = settings.pick(shell.context()?.as_deref())?;
    let identity = renewal::load(&settings, name, context)?;
    if Timestamp::now() > identity.not_after() {
        return Err(renewal::expired(identity.not_after()));
    }
    let session = Session::connect(&context.address, &context.broker, &identity)?;
    if let Renewed::BySomebodyElse = renewal::renew(&session, &identity).await? {
        shell
            .console
            .hint("another attache renews this certificate at the moment");
    }
    signed_in(&settings, name)
}

fn signed_in(settings: &Settings, name: &str) -> Result<Report, Failure> {
    let (_, context) = settings.pick(Some(name))?;
    let identity = renewal::load(settings, name, context)?;
    let data = LoginJson {
        context: name.to_owned(),
        operator: identity.credentials.id().to_string(),
        broker: context.broker.to_string(),
        not_after: Some(identity.not_after().to_string()),
        renew_until: context.renew_until.map(|until| until.to_string()),
    };
    let until = data
        .renew_until
        .as_deref()
        .map(|until| format!(" and renews itself until {until}"))
        .unwrap_or_default();
    let text = format!(
        "signed in as {} (context {name}); the certificate works until {}{until}",
        data.operator,
        identity.not_after()
    );
    Report::new(&data, vec![name.to_owned()], Human::Text(text))
}

/// Makes the settings' folder, for its owner alone.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Writes a file that nobody has yet: a slip must not cost another file.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let what = format!("{} was not written", path.display());
    let written = File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| {
        let failure = Failure::new(Exit::Precondition, what);
        if error.kind() == ErrorKind::AlreadyExists {
            return failure
                .because("it exists")
                .mend("remove it, or give another --csr");
        }
        Failure {
            exit: Exit::Failed,
            ..failure
        }
        .caused_by(&error)
    })
}

#[cfg(test)]
mod tests;
