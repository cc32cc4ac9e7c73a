//! The verbs: each takes its arguments and a [`Shell`], and answers a [`Report`].
//!
//! A module a noun. Each holds the noun's view (the documented JSON keys, see `docs/cli.md`), its requests, and the
//! sentences that say what was not done. Connections are opened as late as possible: after everything has been read and
//! asked for.

pub mod approval;
pub mod audit;
pub mod backup;
pub mod broker;
pub mod cluster;
pub mod completion;
pub mod doctor;
pub mod grant;
pub mod guardrail;
mod held;
pub mod key;
pub mod keyspace;
pub mod login;
pub mod node;
pub mod operator;
pub mod secret;
pub mod slot;
pub mod status;
pub mod verify;
pub mod why;

use std::future::Future;

use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::args::broker::Broker;
use crate::args::key::Key;
use crate::args::slot::{Add, Slot};
use crate::args::{Cli, Command, Global};
use crate::context::Settings;
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::near::nearest;
use crate::output::{Console, Report};
use crate::session::Session;

/// What every verb may use.
#[derive(Debug)]
pub struct Shell {
    /// The environment's variables.
    pub environment: Environment,
    /// What holds for every command.
    pub global: Global,
    /// The streams.
    pub console: Console,
}

impl Shell {
    /// The settings.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn settings(&self) -> Result<Settings, Failure> {
        Settings::read(&self.environment)
    }

    /// The context that is named by `--context`, else by ATTACHE_CONTEXT.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a variable that is no name.
    pub fn context(&self) -> Result<Option<String>, Failure> {
        if let Some(name) = &self.global.context {
            return Ok(Some(name.clone()));
        }
        let Some(name) = &self.environment.context else {
            return Ok(None);
        };
        let name = name
            .to_str()
            .ok_or_else(|| Failure::usage("ATTACHE_CONTEXT is not UTF-8"))?;
        let parsed = crate::args::parse::context_name(name);
        parsed
            .map(Some)
            .map_err(|error| Failure::usage(format!("ATTACHE_CONTEXT: {error}")))
    }

    /// A connection to the context's broker.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn session(&self) -> Result<Session, Failure> {
        Session::open(&self.settings()?, self.context()?.as_deref(), &self.console).await
    }
}

/// Carries out a command.
///
/// # Errors
/// Whatever the verb could not do.
pub async fn carry_out(cli: Cli, shell: &Shell) -> Result<Report, Failure> {
    use crate::args::{
        access, approval as approval_args, audit as audit_args, backup as backup_args, fleet,
        secret as secret_args,
    };
    match cli.command {
        Command::Secret(verb) => match verb {
            secret_args::Secret::Put(args) => secret::put(args, shell).await,
            secret_args::Secret::List(args) => secret::list(args, shell).await,
            secret_args::Secret::Show(args) => secret::show(args, shell).await,
            secret_args::Secret::Versions(args) => secret::versions(args, shell).await,
            secret_args::Secret::Rollback(args) => secret::rollback(args, shell).await,
            secret_args::Secret::Pin(args) => secret::pin(args, shell).await,
            secret_args::Secret::Unpin(args) => secret::unpin(args, shell).await,
            secret_args::Secret::Destroy(args) => secret::destroy(args, shell).await,
        },
        Command::Keyspace(verb) => match verb {
            secret_args::Keyspace::Create(args) => keyspace::create(args, shell).await,
            secret_args::Keyspace::List => keyspace::list(shell).await,
            secret_args::Keyspace::Show(args) => keyspace::show(args, shell).await,
            secret_args::Keyspace::Set(args) => keyspace::set(args, shell).await,
            secret_args::Keyspace::Destroy(args) => keyspace::destroy(args, shell).await,
        },
        Command::Key(verb) => keys(verb, shell).await,
        Command::Grant(verb) => match verb {
            access::Grant::Add(args) => grant::add(args, shell).await,
            access::Grant::List(args) => grant::list(args, shell).await,
            access::Grant::Show(args) => grant::show(args, shell).await,
            access::Grant::Remove(args) => grant::remove(args, shell).await,
        },
        Command::Guardrail(access::Guardrail::List) => guardrail::list(shell).await,
        Command::Cluster(verb) => match verb {
            fleet::Cluster::Add(args) => cluster::add(args, shell).await,
            fleet::Cluster::List => cluster::list(shell).await,
            fleet::Cluster::Show(args) => cluster::show(args, shell).await,
            fleet::Cluster::Remove(args) => cluster::remove(args, shell).await,
        },
        Command::Node(verb) => match verb {
            fleet::Node::List(args) => node::list(args, shell).await,
            fleet::Node::JoinToken(args) => node::join_token(args, shell).await,
            fleet::Node::Ban(args) => node::ban(args, shell).await,
            fleet::Node::Unban(args) => node::unban(args, shell).await,
            fleet::Node::Readmit(args) => node::readmit(args, shell).await,
        },
        Command::Operator(verb) => match verb {
            fleet::Operator::List => operator::list(shell).await,
            fleet::Operator::Add(args) => operator::add(args, shell).await,
            fleet::Operator::Ban(args) => operator::ban(args, shell).await,
            fleet::Operator::Unban(args) => operator::unban(args, shell).await,
        },
        Command::Approval(verb) => match verb {
            approval_args::Approval::List => approval::list(shell).await,
            approval_args::Approval::Show(args) => approval::show(args, shell).await,
            approval_args::Approval::Approve(args) => approval::approve(args, shell).await,
            approval_args::Approval::Reject(args) => approval::reject(args, shell).await,
        },
        Command::Slot(verb) => slots(verb, shell).await,
        Command::Audit(verb) => match verb {
            audit_args::Audit::Tail(args) => audit::tail(args, shell).await,
            audit_args::Audit::Verify(args) => verify::verify(args, shell).await,
        },
        Command::Backup(verb) => match verb {
            backup_args::Backup::Create(args) => backup::create(args, shell).await,
            backup_args::Backup::List => backup::list(shell).await,
            backup_args::Backup::Verify(args) => backup::verify(args, shell).await,
        },
        Command::Broker(verb) => brokers(verb, shell).await,
        Command::Login(args) => login::login(args, shell).await,
        Command::Status => status::status(shell).await,
        Command::Doctor => doctor::doctor(shell).await,
        Command::Why(args) => why::why(args, shell).await,
        Command::Completion(args) => completion::completion(&args),
    }
}

async fn keys(verb: Key, shell: &Shell) -> Result<Report, Failure> {
    match verb {
        Key::List(args) => key::list(args, shell).await,
        Key::Status(args) if args.ca => key::ca::status(shell).await,
        Key::Status(args) if args.mac => key::mac::status(shell).await,
        Key::Status(args) if args.audit => key::audit::status(shell).await,
        Key::Status(args) => key::status(args, shell).await,
        Key::Rotate(args) => match args.keyspace.clone() {
            _ if args.root && args.is_of_a_keyspace() => Err(Failure::usage(
                "key rotate takes --root alone, or KEYSPACE with --rate and --no-wait or --wait: each is a rotation of its own",
            )),
            Some(keyspace) => key::rotate(keyspace, args, shell).await,
            None if args.ca => key::ca::rotate(args, shell).await,
            None if args.mac => key::mac::rotate(args, shell).await,
            None if args.audit => key::audit::rotate(args, shell).await,
            None => slot::rotate_root(args, shell).await,
        },
        Key::Destroy(args) => key::destroy(args, shell).await,
    }
}

async fn brokers(verb: Broker, shell: &Shell) -> Result<Report, Failure> {
    match verb {
        Broker::Status(args) => broker::status(args, shell).await,
        Broker::Seal(args) => broker::seal(args, shell).await,
        Broker::Unseal(args) => broker::unseal(args, shell).await,
    }
}

async fn slots(verb: Slot, shell: &Shell) -> Result<Report, Failure> {
    match verb {
        Slot::List => slot::list(shell).await,
        Slot::Add(Add::KeyFile(args)) => slot::add_key_file(args, shell).await,
        Slot::Add(Add::Passphrase(args)) => slot::add_passphrase(args, shell).await,
        Slot::Add(Add::Kms(args)) => slot::add_kms(args, shell).await,
        Slot::Add(Add::Shares(args)) => slot::shares::add(args, shell).await,
        Slot::Verify(args) => slot::verify::verify(args, shell).await,
        Slot::Remove(args) => slot::remove(args, shell).await,
    }
}

/// What every change answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The request.
    pub request_id: String,
    /// The store's sequence number behind the change.
    pub seq: u64,
    /// Whether an earlier attempt had made it.
    pub repeated: bool,
    /// Whether nothing was changed, because that was asked for.
    pub dry_run: bool,
}

impl Changed {
    /// Reads a broker's answer.
    #[must_use]
    pub fn new(request_id: Uuid, committed: Option<pb::Committed>, dry_run: bool) -> Self {
        let committed = committed.unwrap_or_default();
        Self {
            request_id: request_id.to_string(),
            seq: committed.seq,
            repeated: committed.repeated,
            dry_run,
        }
    }

    /// "did" or "would do", as it was.
    #[must_use]
    pub fn says<'t>(&self, did: &'t str, would: &'t str) -> &'t str {
        if self.dry_run { would } else { did }
    }
}

/// A time for programs and people: RFC 3339, UTC, in seconds; none for an absent or impossible one.
#[must_use]
pub fn time(at: Option<pb::Time>) -> Option<String> {
    let at = Timestamp::from_millisecond(at?.unix_ms).ok()?;
    Some(Timestamp::from_second(at.as_second()).ok()?.to_string())
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A uuid of the wire as text; hexadecimal when it has not 16 bytes.
#[must_use]
pub fn uuid_text(bytes: &[u8]) -> String {
    match Uuid::from_slice(bytes) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => hex(bytes),
    }
}

/// Whether a text has the form of a join token or an operator's code: this prefix, then 80 bytes in base64url without
/// padding, whose last character has two spare bits, which are 0.
fn is_one_time(text: &str, prefix: &str) -> bool {
    const CHARACTERS: usize = 107;
    let in_alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    text.strip_prefix(prefix).is_some_and(|body| {
        body.len() == CHARACTERS
            && body.bytes().all(in_alphabet)
            && body.ends_with(|c| "AEIMQUYcgkosw048".contains(c))
    })
}

/// What stands in a table where nothing is.
#[must_use]
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}

/// When something was not found: adds the nearest of the names that there are. The list is best effort, since the failure
/// is what the user came to see.
pub async fn with_suggestion<F>(failure: Failure, wanted: &str, names: F) -> Failure
where
    F: Future<Output = Result<Vec<String>, Failure>>,
{
    if failure.exit != Exit::Precondition || failure.mend.is_some() {
        return failure;
    }
    let known = names.await.unwrap_or_default();
    match nearest(wanted, known.iter().map(String::as_str)) {
        Some(near) if !known.iter().any(|name| name == wanted) => {
            failure.mend(format!("did you mean {near}?"))
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_have_one_form() {
        assert_eq!(
            time(Some(pb::Time {
                unix_ms: 1_795_428_245_678
            }))
            .as_deref(),
            Some("2026-11-23T10:04:05Z")
        );
        assert_eq!(time(None), None);
        assert_eq!(time(Some(pb::Time { unix_ms: i64::MAX })), None);
        assert_eq!(uuid_text(&[1; 16]), "01010101-0101-0101-0101-010101010101");
        assert_eq!(uuid_text(&[1, 255]), "01ff");
        assert_eq!(or_dash(Some("")), "-");
    }

    #[test]
    fn a_join_token_and_a_code_have_one_form() {
        let prefix = "attache-join-1:";
        let good = format!("{prefix}{}A", "aB_-09".repeat(17) + "zzzz");
        assert!(is_one_time(&good, prefix), "{good}");
        for other in [
            String::new(),
            good.replace("join-1", "join-2"),
            good.replace("join-1", "operator-1"),
            format!("{good}A"),
            good[..good.len() - 1].to_owned(),
            format!("{}B", &good[..good.len() - 1]),
            format!("{good}\n"),
            format!(" {good}"),
            good.replace("_-", "+/"),
            good.replace("aB", "\u{1b}["),
            good.replace("aB", "\n\n"),
        ] {
            assert!(!is_one_time(&other, prefix), "{other:?}");
        }
    }

    #[tokio::test]
    async fn only_what_was_not_found_gets_a_suggestion() {
        let names = || async { Ok(vec!["payments/db".to_owned(), "web/tls".to_owned()]) };
        let missing = Failure::new(Exit::Precondition, "x");
        assert_eq!(
            with_suggestion(missing.clone(), "paymnets/db", names())
                .await
                .mend
                .as_deref(),
            Some("did you mean payments/db?")
        );
        assert_eq!(
            with_suggestion(missing.clone(), "payments/db", names())
                .await
                .mend,
            None
        );
        assert_eq!(
            with_suggestion(Failure::new(Exit::Denied, "x"), "paymnets/db", names())
                .await
                .mend,
            None
        );
        let away = async { Err(Failure::new(Exit::Unavailable, "y")) };
        assert_eq!(
            with_suggestion(missing.clone(), "paymnets/db", away).await,
            missing
        );
    }
}
