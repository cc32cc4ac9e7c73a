//! The settings file: which brokers there are, and by which key and certificate this operator speaks to them.
//!
//! ```toml
//! current = "default"
//! [contexts.default]
//! address = "broker.example:7443"
//! broker = "spiffe://example.internal/broker/broker-0"
//! enroll = "broker.example:7444"               # where it listens for those without a certificate, if not there
//! operator = "ada"
//! trust_bundle = "default.trust-bundle.pem"    # relative to this file's folder
//! certificate = "default.crt"
//! key = "default.key"
//! renew_until = "2026-11-30T10:00:00Z"         # until then the certificate renews itself
//! ```
//!
//! Read whole and checked before anything is opened: an unknown key is refused with the nearest known one. Written whole,
//! beside itself, then renamed. It never holds a secret, and its values are not repeated in errors.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use attache_mtls::private_file::write_private;
use attache_mtls::public_file::read_public;
use attache_mtls::spiffe::BrokerId;
use jiff::Timestamp;
use toml::{Table, Value};

use crate::args::parse;
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::near::nearest;

/// The settings file is never larger than this.
const FILE_LIMIT_BYTES: u64 = 256 * 1024;
/// The keys of a context.
pub const KEYS: [&str; 8] = [
    "address",
    "broker",
    "enroll",
    "operator",
    "trust_bundle",
    "certificate",
    "key",
    "renew_until",
];

/// The settings, with the place that they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub file: PathBuf,
    /// The context that is taken when none is named.
    pub current: Option<String>,
    /// The contexts by name.
    pub contexts: BTreeMap<String, Context>,
}

/// One broker, and who this operator is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// HOST:PORT.
    pub address: String,
    /// The broker that must answer.
    pub broker: BrokerId,
    /// HOST:PORT of its listener for those without a certificate; port 7444 beside the address, unless it is given.
    pub enroll: Option<String>,
    /// The operator's name, for which the certificate must be.
    pub operator: Option<String>,
    /// The CA certificates by which the broker is known, as written in the file.
    pub trust_bundle: PathBuf,
    /// The operator's certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Until when the certificate is renewed without being asked for.
    pub renew_until: Option<Timestamp>,
}

impl Settings {
    /// Reads the settings; a file that is not there has no contexts.
    ///
    /// # Errors
    /// [`Exit::Failed`] with the key that is wrong.
    pub fn read(environment: &Environment) -> Result<Self, Failure> {
        let file = environment.config_file().ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                "the settings file has no place: neither HOME nor XDG_CONFIG_HOME is set",
            )
            .mend("set ATTACHE_CONFIG to a file")
        })?;
        let refused = |why: String| {
            Failure::new(
                Exit::Failed,
                format!("the settings file {} is refused", file.display()),
            )
            .because(why)
        };
        let text = match read_public(&file, FILE_LIMIT_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(refused(error.to_string())),
        };
        let text = std::str::from_utf8(&text).map_err(|_| refused("it is not UTF-8".to_owned()))?;
        let (current, contexts) = parse_text(text).map_err(refused)?;
        Ok(Self {
            file,
            current,
            contexts,
        })
    }

    /// Writes the settings, whole and durably.
    ///
    /// # Errors
    /// [`Exit::Failed`] when the file cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        let mut table = Table::new();
        if let Some(current) = &self.current {
            table.insert("current".into(), Value::String(current.clone()));
        }
        let contexts = self
            .contexts
            .iter()
            .map(|(name, context)| Ok((name.clone(), Value::Table(context.to_table()?))));
        table.insert(
            "contexts".into(),
            Value::Table(contexts.collect::<Result<Table, Failure>>()?),
        );
        write_private(&self.file, table.to_string().as_bytes()).map_err(|error| {
            Failure::new(Exit::Failed, "the settings were not written").caused_by(&error)
        })
    }

    /// The folder that the paths in the file are relative to.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// A path of a context, from where the process is.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder().join(path)
    }

    /// The context that was named, else the current one, else the only one.
    ///
    /// # Errors
    /// [`Exit::NotSignedIn`] when there is none at all, [`Exit::Usage`] when none has that name.
    pub fn pick(&self, named: Option<&str>) -> Result<(&str, &Context), Failure> {
        if self.contexts.is_empty() {
            return Err(Failure::new(Exit::NotSignedIn, format!("not signed in: {} has no context", self.file.display()))
                .mend("sign in first: attache login --new NAME --broker ADDR --broker-id ID --trust-bundle FILE --csr OUT"));
        }
        let only = || {
            self.contexts
                .keys()
                .next()
                .filter(|_| self.contexts.len() == 1)
                .map(String::as_str)
        };
        let Some(name) = named.or(self.current.as_deref()).or_else(only) else {
            return Err(
                Failure::usage("there are several contexts and none is the current one").mend(
                    format!("name one by --context or ATTACHE_CONTEXT: {}", self.names()),
                ),
            );
        };
        let found = self
            .contexts
            .get_key_value(name)
            .map(|(name, context)| (name.as_str(), context));
        found.ok_or_else(|| {
            let mend = match nearest(name, self.contexts.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are: {}", self.names()),
            };
            Failure::usage(format!("there is no context {name}")).mend(mend)
        })
    }

    /// The contexts' names, for a sentence.
    #[must_use]
    pub fn names(&self) -> String {
        self.contexts
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl Context {
    fn to_table(&self) -> Result<Table, Failure> {
        let mut table = Table::new();
        let mut put = |key: &str, value: String| {
            table
                .insert(key.into(), Value::String(value))
                .map_or((), drop)
        };
        put("address", self.address.clone());
        put("broker", self.broker.to_string());
        if let Some(enroll) = &self.enroll {
            put("enroll", enroll.clone());
        }
        if let Some(operator) = &self.operator {
            put("operator", operator.clone());
        }
        for (key, path) in [
            ("trust_bundle", &self.trust_bundle),
            ("certificate", &self.certificate),
            ("key", &self.key),
        ] {
            let text = path.to_str().ok_or_else(|| {
                Failure::new(Exit::Failed, format!("{key}: the path is not UTF-8"))
            })?;
            put(key, text.to_owned());
        }
        if let Some(until) = self.renew_until {
            put("renew_until", until.to_string());
        }
        Ok(table)
    }

    fn from_table(name: &str, mut table: Table) -> Result<Self, String> {
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(unknown_key(&format!("contexts.{name}."), unknown, &KEYS));
        }
        let mut take = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("contexts.{name}.{key} must be a text in quotes")),
        };
        let (address, broker, operator) = (take("address")?, take("broker")?, take("operator")?);
        let (trust_bundle, certificate, key) =
            (take("trust_bundle")?, take("certificate")?, take("key")?);
        let (renew_until, enroll) = (take("renew_until")?, take("enroll")?);
        let path = |key: &str, text: Option<String>| {
            let text = text.ok_or_else(|| missing(name, key))?;
            if text.is_empty() || text.len() >= 4096 || text.chars().any(char::is_control) {
                return Err(format!(
                    "contexts.{name}.{key} is empty, too long, or has a control character"
                ));
            }
            Ok(PathBuf::from(text))
        };
        Ok(Self {
            address: checked(name, "address", address, parse::address)?
                .ok_or_else(|| missing(name, "address"))?,
            broker: checked(name, "broker", broker, parse::broker_id)?
                .ok_or_else(|| missing(name, "broker"))?,
            enroll: checked(name, "enroll", enroll, parse::address)?,
            operator: checked(name, "operator", operator, parse::operator_name)?,
            trust_bundle: path("trust_bundle", trust_bundle)?,
            certificate: path("certificate", certificate)?,
            key: path("key", key)?,
            renew_until: checked(name, "renew_until", renew_until, |text| {
                text.parse::<Timestamp>()
                    .map_err(|_| "is no time as in 2026-11-30T10:00:00Z")
            })?,
        })
    }
}

fn parse_text(text: &str) -> Result<(Option<String>, BTreeMap<String, Context>), String> {
    // The parser's message without the line that it complains about: it could hold a pasted secret.
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| format!("it is not TOML: {}", error.message()))?;
    let mut current = None;
    let mut contexts = BTreeMap::new();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("current", Value::String(name)) => {
                current =
                    Some(parse::context_name(&name).map_err(|error| format!("current: {error}"))?);
            }
            ("contexts", Value::Table(table)) => {
                for (name, value) in table {
                    let name =
                        parse::context_name(&name).map_err(|error| format!("contexts: {error}"))?;
                    let Value::Table(table) = value else {
                        return Err(format!("contexts.{name} must be a section"));
                    };
                    let context = Context::from_table(&name, table)?;
                    contexts.insert(name, context);
                }
            }
            ("current", _) => return Err("current must be a text in quotes".to_owned()),
            ("contexts", _) => return Err("contexts must be a section".to_owned()),
            (unknown, _) => return Err(unknown_key("", unknown, &["current", "contexts"])),
        }
    }
    Ok((current, contexts))
}

fn checked<T, E: std::fmt::Display>(
    name: &str,
    key: &str,
    text: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    text.map(|text| parse(&text))
        .transpose()
        .map_err(|error| format!("contexts.{name}.{key}: {error}"))
}

fn missing(name: &str, key: &str) -> String {
    format!("contexts.{name}.{key} is missing")
}

fn unknown_key(section: &str, key: &str, known: &[&str]) -> String {
    let shown: String = key.chars().filter(|c| !c.is_control()).take(80).collect();
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key {section}{shown}; did you mean {near}?"),
        None => format!(
            "unknown key {section}{shown}; there are: {}",
            known.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests;
