//! The declared keys of a process, and the walk over a file that holds it against them.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

use crate::{Settings, SettingsError, value::Value};

/// A settings file is never larger than this.
const FILE_LIMIT_BYTES: u64 = 64 * 1024;
/// Text and paths are never longer than this.
const TEXT_LIMIT_BYTES: usize = 4096;

/// The keys of one process.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// In the order in which `--help` shows them.
    pub keys: &'static [Key],
}

/// One declared key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Section and name: `listen.grpc`; a key without a section has no dot.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// What holds when it is not there.
    pub fallback: Fallback,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text of 1 to 4096 bytes without control characters.
    Text,
    /// An absolute path.
    Path,
    /// IP address and port: `127.0.0.1:7443`.
    Address,
    /// Name or IP address, and port: `broker.example:7443`. The name is looked up by whoever connects.
    Endpoint,
    /// A whole number within these bounds, both included.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// `true` or `false`.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// What holds for a key that the file does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The file is refused.
    Required,
    /// The setting is absent.
    Absent,
    /// This value, written as it would be in the file (text without quotes).
    Default(&'static str),
}

impl Schema {
    /// Reads and checks a settings file.
    ///
    /// # Errors
    /// Any of [`SettingsError`]: the first thing that is wrong.
    pub fn read(&self, file: &Path) -> Result<Settings, SettingsError> {
        self.read_with(file, &[])
    }

    /// As [`Schema::read`], with keys that the command line gives: they are held against the schema as if the file had
    /// them, and stand in place of the file's.
    ///
    /// # Errors
    /// As [`Schema::read`].
    pub fn read_with(
        &self,
        file: &Path,
        given: &[(&str, &str)],
    ) -> Result<Settings, SettingsError> {
        let mut text = Vec::new();
        open_regular(file)
            .and_then(|f| f.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut text))
            .map_err(SettingsError::Read)?;
        if text.len() as u64 > FILE_LIMIT_BYTES {
            return Err(SettingsError::TooLarge {
                limit: FILE_LIMIT_BYTES,
            });
        }
        let text = std::str::from_utf8(&text).map_err(|_| SettingsError::Syntax {
            line: 0,
            problem: "the file is not UTF-8".into(),
        })?;
        self.parse_with(text, given)
    }

    /// Checks the text of a settings file.
    ///
    /// # Errors
    /// As [`Schema::read`].
    pub fn parse(&self, text: &str) -> Result<Settings, SettingsError> {
        self.parse_with(text, &[])
    }

    fn parse_with(&self, text: &str, given: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let table: toml::Table = text.parse().map_err(|e| syntax(text, &e))?;
        let mut found = BTreeMap::new();
        for (name, value) in table {
            let toml::Value::Table(section) = value else {
                self.accept(&name, value, &mut found)?;
                continue;
            };
            if section.is_empty() && !self.has_section(&name) {
                return Err(self.unknown(&name));
            }
            for (inner, value) in section {
                self.accept(&format!("{name}.{inner}"), value, &mut found)?;
            }
        }
        for (path, text) in given {
            self.accept(path, toml::Value::String((*text).to_owned()), &mut found)?;
        }
        for key in self.keys {
            if found.contains_key(key.path) {
                continue;
            }
            match key.fallback {
                Fallback::Required => {
                    return Err(SettingsError::Missing {
                        key: key.path,
                        help: key.help,
                    });
                }
                Fallback::Absent => {}
                Fallback::Default(text) => {
                    found.insert(key.path, key.default_value(text)?);
                }
            }
        }
        Ok(Settings::new(found))
    }

    /// The keys as `--help` shows them: section by section, each with its default.
    #[must_use]
    pub fn help(&self) -> String {
        self.keys
            .iter()
            .map(|key| {
                let fallback = match key.fallback {
                    Fallback::Required => "required".to_owned(),
                    Fallback::Absent => "not set".to_owned(),
                    Fallback::Default(text) => format!("default {text}"),
                };
                format!("  {:<32} {} [{fallback}]\n", key.path, key.help)
            })
            .collect()
    }

    fn accept(
        &self,
        path: &str,
        value: toml::Value,
        found: &mut BTreeMap<&'static str, Value>,
    ) -> Result<(), SettingsError> {
        let key = self
            .keys
            .iter()
            .find(|k| k.path == path)
            .ok_or_else(|| self.unknown(path))?;
        found.insert(key.path, key.check(value)?);
        Ok(())
    }

    fn has_section(&self, name: &str) -> bool {
        self.keys.iter().any(|k| {
            k.path
                .split_once('.')
                .is_some_and(|(section, _)| section == name)
        })
    }

    fn unknown(&self, path: &str) -> SettingsError {
        let nearest = self
            .keys
            .iter()
            .map(|k| (strsim::damerau_levenshtein(k.path, path), k.path))
            .min()
            .filter(|(distance, known)| *distance <= known.len() / 3)
            .map(|(_, known)| known);
        SettingsError::Unknown {
            key: path.chars().filter(|c| !c.is_control()).take(80).collect(),
            nearest,
        }
    }
}

impl Key {
    fn check(&self, value: toml::Value) -> Result<Value, SettingsError> {
        match (self.kind, value) {
            (Kind::Integer { min, max }, toml::Value::Integer(n)) => {
                if (min..=max).contains(&n) {
                    Ok(Value::Integer(n))
                } else {
                    Err(self.bad(format!("must be between {min} and {max}")))
                }
            }
            (Kind::Flag, toml::Value::Boolean(b)) => Ok(Value::Flag(b)),
            (
                Kind::Text | Kind::Path | Kind::Address | Kind::Endpoint | Kind::OneOf(_),
                toml::Value::String(s),
            ) => self.check_text(s),
            _ => Err(self.wrong_type()),
        }
    }

    fn check_text(&self, text: String) -> Result<Value, SettingsError> {
        if text.is_empty() {
            return Err(self.bad(format!("is empty: {}", self.help)));
        }
        if text.len() > TEXT_LIMIT_BYTES {
            return Err(self.bad(format!("is longer than {TEXT_LIMIT_BYTES} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(self.bad("contains a control character (NUL, tab or a line's end)".into()));
        }
        match self.kind {
            Kind::Path if !Path::new(&text).is_absolute() => Err(self.bad(
                "must be an absolute path: it must not hang on where the process was started"
                    .into(),
            )),
            Kind::Address => text.parse::<SocketAddr>().map(Value::Address).map_err(|_| {
                self.bad(
                    "must be an IP address and a port, as in 127.0.0.1:7443 or [::1]:7443".into(),
                )
            }),
            Kind::Endpoint if !is_endpoint(&text) => Err(self.bad(
                "must be a name or an IP address, and a port, as in broker.example:7443 or [::1]:7443"
                    .into(),
            )),
            Kind::OneOf(words) if !words.contains(&text.as_str()) => {
                Err(self.bad(format!("must be one of: {}", words.join(", "))))
            }
            Kind::Text | Kind::Path | Kind::Endpoint | Kind::OneOf(_) => Ok(Value::Text(text)),
            Kind::Integer { .. } | Kind::Flag => Err(self.wrong_type()),
        }
    }

    fn default_value(&self, text: &str) -> Result<Value, SettingsError> {
        let value = match self.kind {
            Kind::Integer { .. } => text
                .parse()
                .map(toml::Value::Integer)
                .map_err(|_| self.wrong_type())?,
            Kind::Flag => text
                .parse()
                .map(toml::Value::Boolean)
                .map_err(|_| self.wrong_type())?,
            Kind::Text | Kind::Path | Kind::Address | Kind::Endpoint | Kind::OneOf(_) => {
                toml::Value::String(text.to_owned())
            }
        };
        self.check(value)
    }

    fn wrong_type(&self) -> SettingsError {
        let expected = match self.kind {
            Kind::Text => "a text in quotes".to_owned(),
            Kind::Path => "an absolute path in quotes".to_owned(),
            Kind::Address => "an address in quotes, as in \"127.0.0.1:7443\"".to_owned(),
            Kind::Endpoint => {
                "a name and a port in quotes, as in \"broker.example:7443\"".to_owned()
            }
            Kind::Integer { min, max } => format!("a whole number between {min} and {max}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::OneOf(words) => format!("one of, in quotes: {}", words.join(", ")),
        };
        SettingsError::WrongType {
            key: self.path,
            expected,
            help: self.help,
        }
    }

    fn bad(&self, problem: String) -> SettingsError {
        SettingsError::BadValue {
            key: self.path,
            problem,
        }
    }
}

/// `IP:PORT`, or `NAME:PORT` with a name of RFC 1123 whose last part is no number, and a port that is not 0.
fn is_endpoint(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&part.len())
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(is_part)
        && !name.rsplit('.').next().is_some_and(is_number)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Opens a regular file without waiting: a pipe in its place would hold the process for ever.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}

/// The parser's complaint without the text that it complains about: a quoted line could hold a pasted secret.
fn syntax(text: &str, error: &toml::de::Error) -> SettingsError {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(0, |before| before.matches('\n').count() + 1);
    SettingsError::Syntax {
        line,
        problem: error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests;
