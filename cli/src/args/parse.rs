//! One word of the command line into its type.
//!
//! Every parser says what is wrong and what would be right, and none repeats the word: it may be a secret that was typed
//! in the wrong place. Names and references have their grammar in `attache_envelope::name`; here stands what each verb
//! takes of it.

#![expect(
    clippy::missing_errors_doc,
    reason = "every parser has the one error, Problem, and the module says what it says"
)]

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use attache_envelope::name::{
    ClusterName, GrantName, KeyRef, Keyspace, Namespace, NodeName, NodeUid, SecretPath, SecretRef,
    SecretVersion, ServiceAccount, SlotName, WorkloadRef,
};
use attache_envelope::shares::MAX_SHARES;
use attache_mtls::spiffe::{BrokerId, NodeId, OperatorId, TrustDomain};
use attache_translog::Verifier;
use clap::builder::{OsStringValueParser, TypedValueParser};

/// Texts of other kinds are never longer than this, in bytes.
const TEXT_LIMIT_BYTES: usize = 2048;
/// Reasons are never longer than this, in bytes.
const REASON_LIMIT_BYTES: usize = 1024;
/// `PATH_MAX` of Linux, in bytes.
const PATH_LIMIT_BYTES: usize = 4096;
/// The most records that `tail` begins with.
const LINES_LIMIT: u64 = 1_000_000;

/// What is wrong with a word, and what would be right; never the word itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Makes a parser of one word: clap's own way to take a text does not say which argument was not UTF-8.
#[must_use]
pub fn word<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, Problem>,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |text| match text.to_str() {
        Some(text) => parse(text),
        None => Err(Problem::new("it is not UTF-8")),
    })
}

/// `KEYSPACE/NAME`, for verbs on a whole secret.
pub fn secret(text: &str) -> Result<SecretPath, Problem> {
    let reference = reference(text)?;
    if reference.version.is_some() {
        return Err(Problem::new(
            "this verb takes no @VERSION: write KEYSPACE/NAME",
        ));
    }
    if reference.field.is_some() {
        return Err(Problem::new(
            "this verb takes no #FIELD: write KEYSPACE/NAME",
        ));
    }
    Ok(reference.path)
}

/// `KEYSPACE/NAME[@VERSION]`.
pub fn secret_version(text: &str) -> Result<SecretRef, Problem> {
    let reference = reference(text)?;
    if reference.field.is_some() {
        return Err(Problem::new(
            "a version holds all its fields together: write KEYSPACE/NAME@VERSION",
        ));
    }
    Ok(reference)
}

/// `KEYSPACE/NAME@VERSION`.
pub fn one_version(text: &str) -> Result<SecretRef, Problem> {
    let reference = secret_version(text)?;
    if reference.version.is_none() {
        return Err(Problem::new(
            "this verb is about one version: write KEYSPACE/NAME@VERSION",
        ));
    }
    Ok(reference)
}

/// `KEYSPACE/NAME[#FIELD]`.
pub fn secret_field(text: &str) -> Result<SecretRef, Problem> {
    let reference = reference(text)?;
    if reference.version.is_some() {
        return Err(Problem::new(
            "a grant is for whichever version is active: write KEYSPACE/NAME or KEYSPACE/NAME#FIELD",
        ));
    }
    Ok(reference)
}

fn reference(text: &str) -> Result<SecretRef, Problem> {
    named(text)
}

/// A keyspace.
pub fn keyspace(text: &str) -> Result<Keyspace, Problem> {
    named(text)
}

/// `KEYSPACE@EPOCH`.
pub fn key(text: &str) -> Result<KeyRef, Problem> {
    named(text)
}

/// How many of something a second.
pub fn rate(text: &str) -> Result<u32, Problem> {
    let rate = text.parse().ok().filter(|rate| *rate > 0);
    rate.filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| Problem::new(format!("write a whole number from 1 to {}", u32::MAX)))
}

/// How long: a whole number and its unit.
pub fn duration(text: &str) -> Result<Duration, Problem> {
    seconds(text)
        // Longer is no time that anybody waits, and none that a clock adds.
        .filter(|seconds| *seconds <= 365 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| {
            Problem::new("write a whole number from 1 and s, min, h or d, a year at most")
        })
}

/// A whole number from 1 and its unit, in seconds.
fn seconds(text: &str) -> Option<u64> {
    let units = [("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400)];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit = units
        .iter()
        .find(|(unit, _)| text.strip_prefix(digits) == Some(*unit));
    let number: Option<u64> = digits.parse().ok().filter(|it| *it > 0);
    let number = number.filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?;
    number.checked_mul(unit?.1)
}

/// How long a key wraps at most, in seconds; 0 for ever.
pub fn key_age(text: &str) -> Result<u32, Problem> {
    age(text)
        .filter(|seconds| *seconds == 0 || *seconds >= 3_600)
        .ok_or_else(|| {
            Problem::new("write a whole number and h or d, from 1h to 3650d, or 0 for no limit")
        })
}

/// How long backups are kept, in seconds; 0 when that is not said.
pub fn backup_age(text: &str) -> Result<u32, Problem> {
    age(text).ok_or_else(|| {
        Problem::new("write a whole number and s, min, h or d, 3650d at most, or 0 for none")
    })
}

/// Seconds, ten years at most; 0 stands alone.
fn age(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    let seconds = seconds(text).filter(|it| *it <= 3_650 * 86_400)?;
    u32::try_from(seconds).ok()
}

/// How often a key wraps at most; 0 for no limit.
pub fn key_wraps(text: &str) -> Result<u64, Problem> {
    let number = text.parse().ok();
    number
        .filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| {
            Problem::new(format!(
                "write a whole number from 1 to {}, or 0 for no limit",
                u64::MAX
            ))
        })
}

/// How many versions are kept; 0 for all.
pub fn max_versions(text: &str) -> Result<u32, Problem> {
    let number = text.parse().ok();
    number
        .filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| {
            Problem::new(format!(
                "write a whole number from 1 to {}, or 0 to keep all",
                u32::MAX
            ))
        })
}

/// How many shares.
pub fn shares(text: &str) -> Result<u8, Problem> {
    let number = text.parse().ok();
    number
        .filter(|number| (2..=MAX_SHARES).contains(number))
        .filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| Problem::new(format!("write a whole number from 2 to {MAX_SHARES}")))
}

/// A grant's name.
pub fn grant(text: &str) -> Result<GrantName, Problem> {
    named(text)
}

/// A cluster's name.
pub fn cluster(text: &str) -> Result<ClusterName, Problem> {
    named(text)
}

/// A slot's name; its id has the same form.
pub fn slot(text: &str) -> Result<SlotName, Problem> {
    named(text)
}

/// The name of a Node object.
pub fn node_name(text: &str) -> Result<NodeName, Problem> {
    named(text)
}

/// `CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER`.
pub fn workload(text: &str) -> Result<WorkloadRef, Problem> {
    named(text)
}

/// An operator's name: one segment of a SPIFFE ID.
pub fn operator_name(text: &str) -> Result<String, Problem> {
    let anywhere: TrustDomain = named("any")?;
    OperatorId::new(anywhere, text)
        .map(|id| id.name().to_owned())
        .map_err(|error| Problem::new(error.to_string()))
}

/// A broker's SPIFFE ID.
pub fn broker_id(text: &str) -> Result<BrokerId, Problem> {
    text.parse()
        .map_err(|error| Problem::new(format!("{error}; write spiffe://TRUST-DOMAIN/broker/NAME")))
}

/// A node as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeArg {
    /// The whole SPIFFE ID.
    Id(NodeId),
    /// Its cluster, and its name or uid there.
    Named {
        /// The cluster.
        cluster: ClusterName,
        /// The Node object's name or uid.
        node: String,
    },
}

impl fmt::Display for NodeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Named { cluster, node } => write!(f, "{cluster}/{node}"),
        }
    }
}

/// A node: SPIFFE ID, CLUSTER/NAME or CLUSTER/UID.
pub fn node(text: &str) -> Result<NodeArg, Problem> {
    if text.starts_with("spiffe:") {
        let id = text.parse();
        return id.map(NodeArg::Id).map_err(|error| {
            Problem::new(format!(
                "{error}; write spiffe://TRUST-DOMAIN/node/CLUSTER/UID"
            ))
        });
    }
    let Some((cluster, node)) = text.split_once('/') else {
        return Err(Problem::new(
            "write CLUSTER/NAME, CLUSTER/UID, or the whole SPIFFE ID as `attache node list` shows it",
        ));
    };
    let cluster = named(cluster)?;
    if NodeUid::from_str(node).is_err() {
        named::<NodeName>(node)?;
    }
    Ok(NodeArg::Named {
        cluster,
        node: node.to_owned(),
    })
}

/// A context's name: a plain file name, because its key and certificate are named after it.
pub fn context_name(text: &str) -> Result<String, Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty()
        || text.len() > 63
        || !text.chars().all(fits)
        || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(Problem::new(
            "a context's name has 1 to 63 of A-Z, a-z, 0-9, and after the first also . _ -",
        ));
    }
    Ok(text.to_owned())
}

/// A version that a secret may be at: 0 for none.
pub fn version(text: &str) -> Result<u64, Problem> {
    if text == "0" {
        return Ok(0);
    }
    named::<SecretVersion>(text).map(SecretVersion::number)
}

/// A version that exists.
pub fn existing_version(text: &str) -> Result<u64, Problem> {
    named::<SecretVersion>(text).map(SecretVersion::number)
}

/// The `iss` of tokens.
pub fn issuer(text: &str) -> Result<String, Problem> {
    let text = plain(text, "the issuer", TEXT_LIMIT_BYTES)?;
    if text.contains(char::is_whitespace)
        || !text
            .split_once("://")
            .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
    {
        return Err(Problem::new(
            "the issuer is a URL, exactly as the tokens have it: https://HOST[/PATH]",
        ));
    }
    Ok(text)
}

/// The `aud` of tokens.
pub fn audience(text: &str) -> Result<String, Problem> {
    plain(text, "the audience", 253)
}

/// A folder on the broker's machine.
pub fn broker_folder(text: &str) -> Result<String, Problem> {
    let text = plain(text, "the folder", PATH_LIMIT_BYTES)?;
    if !text.starts_with('/') {
        return Err(Problem::new(
            "the folder is on the broker's machine: give its absolute path",
        ));
    }
    Ok(text)
}

/// The address of an API server; the broker has the rest of its grammar.
pub fn api_server(text: &str) -> Result<String, Problem> {
    let text = plain(text, "the API server", TEXT_LIMIT_BYTES)?;
    let host = text.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || text.contains(char::is_whitespace) {
        return Err(Problem::new(
            "the API server is a URL, as kubectl cluster-info prints it: https://HOST:PORT",
        ));
    }
    Ok(text)
}

/// A service account with its namespace.
pub fn service_account(text: &str) -> Result<String, Problem> {
    let parts = text.split_once('/').ok_or_else(|| {
        Problem::new(
            "a service account is NAMESPACE/NAME, as in attache-system/attache-node-plugin",
        )
    });
    let (namespace, name) = parts?;
    named::<Namespace>(namespace)?;
    named::<ServiceAccount>(name)?;
    Ok(text.to_owned())
}

/// `HOST:PORT` or `[IPV6]:PORT`.
pub fn address(text: &str) -> Result<String, Problem> {
    let problem =
        || Problem::new("write HOST:PORT, as in broker.example:7443, 127.0.0.1:7443 or [::1]:7443");
    if text.len() > 300 {
        return Err(problem());
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return if socket.port() == 0 {
            Err(problem())
        } else {
            Ok(socket.to_string())
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let digits =
        port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    if host.is_empty() || !host.chars().all(name) || !digits {
        return Err(problem());
    }
    Ok(text.to_owned())
}

/// Where an operator's code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeSource {
    /// Standard input, to its end.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// `-` or `@FILE`: a code on the command line would be in the process list and in the shell's history.
pub fn code_source(text: &str) -> Result<CodeSource, Problem> {
    let file = text
        .strip_prefix('@')
        .filter(|path| !path.is_empty() && path.len() < PATH_LIMIT_BYTES && !path.contains('\0'));
    match (text, file) {
        ("-", _) => Ok(CodeSource::Stdin),
        (_, Some(path)) => Ok(CodeSource::File(path.into())),
        _ => Err(Problem::new(
            "write @FILE or - (standard input): on the command line others would see the code",
        )),
    }
}

/// Why, for the audit.
pub fn reason(text: &str) -> Result<String, Problem> {
    plain(text, "the reason", REASON_LIMIT_BYTES)
}

/// How many records.
pub fn lines(text: &str) -> Result<u64, Problem> {
    let number = text
        .parse::<u64>()
        .ok()
        .filter(|n| (1..=LINES_LIMIT).contains(n));
    number.ok_or_else(|| Problem::new(format!("write a number from 1 to {LINES_LIMIT}")))
}

/// The public key of a log.
pub fn vkey(text: &str) -> Result<Verifier, Problem> {
    let verifier = Verifier::parse(text)
        .map_err(|error| Problem::new(format!("{error}; `attache status` shows it")))?;
    if attache_translog::log_ids(verifier.name()).is_none() {
        return Err(Problem::new(
            "this is not the key of an audit log; `attache status` shows it",
        ));
    }
    Ok(verifier)
}

/// A decision id: 8 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision(String);

impl Decision {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id in a pod's event.
pub fn decision(text: &str) -> Result<Decision, Problem> {
    let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if text.len() == 8 && text.chars().all(digit) {
        Ok(Decision(text.to_owned()))
    } else {
        Err(Problem::new(
            "a decision has 8 of the digits 0-9 and a-f, as in the pod's event: (decision 7f3a9c12)",
        ))
    }
}

/// The id of an approval: 16 lower-case hexadecimal digits.
pub fn approval(text: &str) -> Result<String, Problem> {
    let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if text.len() == 16 && text.chars().all(digit) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            "an approval has 16 of the digits 0-9 and a-f: see attache approval list",
        ))
    }
}

/// The fingerprint of a boot key, as the broker's log has it.
pub fn fingerprint(text: &str) -> Result<String, Problem> {
    let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if text.len() == 64 && text.chars().all(digit) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            "a boot key's fingerprint has 64 of the digits 0-9 and a-f: see boot_key in the broker's log",
        ))
    }
}

/// A path on this machine, in any encoding.
#[must_use]
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| path_of(&text))
}

fn path_of(text: &OsStr) -> Result<PathBuf, Problem> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(Problem::new("the path is empty"));
    }
    if bytes.len() >= PATH_LIMIT_BYTES {
        return Err(Problem::new(format!(
            "the path has {PATH_LIMIT_BYTES} bytes or more"
        )));
    }
    if bytes.contains(&0) {
        return Err(Problem::new("the path contains a NUL"));
    }
    Ok(PathBuf::from(text))
}

fn plain(text: &str, what: &str, limit: usize) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(Problem::new(format!("{what} is empty")));
    }
    if text.len() > limit {
        return Err(Problem::new(format!("{what} is longer than {limit} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::new(format!(
            "{what} contains a control character (NUL, tab or a line's end)"
        )));
    }
    Ok(text.to_owned())
}

fn named<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: T::Err| Problem::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let seconds = |text: &str| duration(text).map(|it| it.as_secs()).ok();
        assert_eq!(
            ["30s", "5min", "2h", "365d"].map(seconds),
            [Some(30), Some(300), Some(7_200), Some(31_536_000)]
        );
        for text in [
            "", "30", "s", "0s", "+3s", "-3s", "3 s", "3S", "3m", "3ss", "366d", "1.5h",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_set_has_two_shares_at_least_and_32_at_most() {
        let number = |text: &str| shares(text).ok();
        assert_eq!(["2", "32"].map(number), [Some(2), Some(32)]);
        for text in ["", "0", "1", "33", "256", "+2", "-2", " 2", "2.0", "two"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn each_verb_takes_its_part_of_a_reference() {
        assert_eq!(
            secret("payments/eu/db").unwrap().to_string(),
            "payments/eu/db"
        );
        assert!(
            secret("payments/db@3")
                .unwrap_err()
                .to_string()
                .contains("@VERSION")
        );
        assert!(
            secret("payments/db#password")
                .unwrap_err()
                .to_string()
                .contains("#FIELD")
        );
        assert_eq!(
            secret_version("payments/db@3").unwrap().to_string(),
            "payments/db@3"
        );
        assert!(secret_version("payments/db#x").is_err());
        assert_eq!(
            one_version("payments/db@3").unwrap().to_string(),
            "payments/db@3"
        );
        for bad in ["payments/db", "payments/db@0", "payments/db@3#x"] {
            assert!(one_version(bad).is_err(), "{bad}");
        }
        assert_eq!(
            secret_field("payments/db#x").unwrap().to_string(),
            "payments/db#x"
        );
        assert!(secret_field("payments/db@3").is_err());
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in [
            "127.0.0.1:7443",
            "[::1]:7443",
            "broker.example:1",
            "localhost:65535",
        ] {
            assert_eq!(address(good).unwrap(), good);
        }
        for bad in [
            "",
            "host",
            "host:",
            ":7443",
            "host:0",
            "127.0.0.1:0",
            "host:65536",
            "::1:7443x",
            "ho st:1",
            "host:+1",
            "a/b:1",
            "ho\0st:1",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nodes_have_three_spellings() {
        assert!(matches!(
            node("spiffe://example/node/local/5a0c1de0").unwrap(),
            NodeArg::Id(_)
        ));
        assert!(matches!(
            node("local/node-a.example").unwrap(),
            NodeArg::Named { .. }
        ));
        assert_eq!(
            node("local/5a0c1de0-0000-4000-8000-00000000000a")
                .unwrap()
                .to_string(),
            "local/5a0c1de0-0000-4000-8000-00000000000a"
        );
        for bad in [
            "",
            "node-a",
            "local/",
            "/a",
            "spiffe://example/operator/ada",
            "LOCAL/a",
            "local/a b",
        ] {
            assert!(node(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_parser_repeats_the_word() {
        let canary = "hunter2-hunter2 hunter2";
        let problems = [
            secret(canary).unwrap_err(),
            keyspace(canary).unwrap_err(),
            grant(canary).unwrap_err(),
            workload(canary).unwrap_err(),
            operator_name(canary).unwrap_err(),
            broker_id(canary).unwrap_err(),
            node(canary).unwrap_err(),
            context_name(canary).unwrap_err(),
            version(canary).unwrap_err(),
            issuer(canary).unwrap_err(),
            broker_folder(canary).unwrap_err(),
            api_server(canary).unwrap_err(),
            service_account(canary).unwrap_err(),
            address(canary).unwrap_err(),
            lines(canary).unwrap_err(),
            vkey(canary).unwrap_err(),
            decision(canary).unwrap_err(),
            approval(canary).unwrap_err(),
            code_source(canary).unwrap_err(),
        ];
        for problem in problems {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
