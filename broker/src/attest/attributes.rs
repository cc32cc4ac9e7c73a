//! The volume attributes of a pod, parsed into what it wants.
//!
//! ```text
//! container   required: the one container that mounts the volume
//! secrets     REF, REF ...   each field becomes a file          | exactly one of the two
//! files       YAML list of {path, ref, mode?, optional?}        |
//! layout      by-name (default) or flat; with `secrets` only
//! mode        "0400" (default; "0440" when the pod has an fsGroup) or "0440"
//! ```
//! Pure. An unknown attribute is refused with the nearest known one: a word that is not understood must never be a
//! word that is ignored. Kubelet's own keys (`csi.storage.k8s.io/...`) are none of ours and are passed over.

use std::collections::BTreeMap;
use std::fmt;

use attache_envelope::name::{ContainerName, SecretRef};
use serde_json::{Map, Value};

use super::facts::parse_yaml;
use super::files::{
    FilePath, MAX_FILES, Mode, Place, Wanted, WantedFiles, check_apart, folder_of, shared,
};
use super::quoted::Quoted;
use super::refusal::PublicReason;

/// The attributes that there are.
pub const KNOWN: [&str; 5] = ["container", "secrets", "files", "layout", "mode"];
/// What kubelet's own keys begin with.
pub const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";
/// The most bytes of `secrets` and of `files`.
pub const MAX_ATTRIBUTE_BYTES: usize = 16 * 1024;
/// The most references in `secrets`.
pub const MAX_SECRETS: usize = 64;
/// How deep `files` may nest.
const MAX_FILES_DEPTH: usize = 4;
/// The keys of an entry of `files`.
const FILE_KEYS: [&str; 4] = ["path", "ref", "mode", "optional"];

/// What the attributes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The container that is given the files.
    pub container: ContainerName,
    /// The files.
    pub wanted: WantedFiles,
}

/// Parses the attributes of a volume; `has_fs_group` sets the default mode.
///
/// # Errors
/// [`PublicReason::UnknownAttribute`], [`PublicReason::Attribute`], [`PublicReason::SharedPath`].
pub fn parse(
    attributes: &BTreeMap<String, String>,
    has_fs_group: bool,
) -> Result<Attributes, PublicReason> {
    for name in attributes.keys() {
        check_known(name)?;
    }
    let text = |name: &str| attributes.get(name).map(String::as_str);
    let container = match text("container") {
        None => {
            return Err(wrong(
                "container",
                "is missing; name the container that mounts the volume",
            ));
        }
        Some(name) => name.parse().map_err(|error| wrong("container", error))?,
    };
    let default = if has_fs_group {
        Mode::OwnerAndGroup
    } else {
        Mode::Owner
    };
    let mode = text("mode").map_or(Ok(default), |mode| parse_mode("mode", mode))?;
    let wanted = match (text("secrets"), text("files")) {
        (Some(secrets), None) => parse_secrets(secrets, text("layout"))?,
        (None, Some(files)) => {
            if attributes.contains_key("layout") {
                return Err(wrong(
                    "layout",
                    "goes with secrets; files has exact paths: remove it",
                ));
            }
            parse_files(files, mode)?
        }
        (Some(_), Some(_)) => {
            return Err(wrong("files", "stands beside secrets; keep one of the two"));
        }
        (None, None) => {
            return Err(wrong(
                "secrets",
                "is missing; list the secrets, or exact files in files",
            ));
        }
    };
    Ok(Attributes {
        container,
        wanted: WantedFiles { wanted, mode },
    })
}

fn check_known(name: &str) -> Result<(), PublicReason> {
    if KNOWN.contains(&name) || name.starts_with(KUBELET_PREFIX) {
        return Ok(());
    }
    if name == "uid" {
        let mend = "is not available yet; set securityContext.runAsUser on the container";
        return Err(wrong("uid", mend));
    }
    Err(PublicReason::UnknownAttribute {
        attribute: Quoted::new(name),
        nearest: nearest(name, &KNOWN),
    })
}

/// `secrets`: references with commas between, and blanks round them.
fn parse_secrets(text: &str, layout: Option<&str>) -> Result<Vec<Wanted>, PublicReason> {
    check_length("secrets", text)?;
    let place = match layout {
        None | Some("by-name") => Place::Folder,
        Some("flat") => Place::Root,
        Some(_) => return Err(wrong("layout", "must be by-name or flat")),
    };
    let mut wanted: Vec<Wanted> = Vec::new();
    for (index, item) in text.split(',').enumerate() {
        if index >= MAX_SECRETS {
            return Err(wrong(
                "secrets",
                format_args!("has more than {MAX_SECRETS} references"),
            ));
        }
        let attribute = || format!("secrets, reference {}:", index + 1);
        let reference: SecretRef = item
            .trim()
            .parse()
            .map_err(|error| wrong(attribute(), error))?;
        wanted.push(Wanted {
            reference,
            place: place.clone(),
            optional: false,
        });
    }
    check_secrets(&wanted)?;
    Ok(wanted)
}

/// Refuses what would meet whatever the fields are called: one reference twice, one within another, two secrets in
/// one folder.
fn check_secrets(wanted: &[Wanted]) -> Result<(), PublicReason> {
    for (second, b) in wanted.iter().enumerate() {
        for (first, a) in wanted.iter().enumerate().take(second) {
            let (a, b) = (&a.reference, &b.reference);
            let same_secret = a.path == b.path && a.version == b.version;
            let overlaps = a.field.is_none() || b.field.is_none() || a.field == b.field;
            if same_secret && overlaps {
                return Err(wrong(
                    "secrets",
                    format_args!("names {b} twice; remove one"),
                ));
            }
            let by_name = wanted
                .first()
                .is_some_and(|first| first.place == Place::Folder);
            if by_name && !same_secret && folder_of(a) == folder_of(b) {
                return Err(shared(wanted, first, second, folder_of(a)));
            }
        }
    }
    Ok(())
}

/// `files`: a list of exact files.
fn parse_files(text: &str, mode: Mode) -> Result<Vec<Wanted>, PublicReason> {
    check_length("files", text)?;
    let parsed: Value = parse_yaml(text, MAX_FILES_DEPTH).map_err(|problem| {
        wrong(
            "files",
            format_args!("is not plain YAML: {}", Quoted::new(&problem)),
        )
    })?;
    let Value::Array(entries) = parsed else {
        return Err(wrong("files", "must be a list of {path, ref}"));
    };
    if entries.is_empty() || entries.len() > MAX_FILES {
        return Err(wrong(
            "files",
            format_args!("must have 1 to {MAX_FILES} entries"),
        ));
    }
    let wanted = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| match entry {
            Value::Object(entry) => Entry { index, keys: entry }.parse(mode),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Err(wrong(
                format_args!("files[{index}]"),
                "must be {path, ref, mode, optional}",
            )),
        });
    let wanted: Vec<Wanted> = wanted.collect::<Result<_, _>>()?;
    let paths = wanted
        .iter()
        .enumerate()
        .filter_map(|(index, wanted)| match &wanted.place {
            Place::File { path, .. } => Some((path, index)),
            Place::Folder | Place::Root => None,
        });
    check_apart(paths, &wanted)?;
    Ok(wanted)
}

/// One entry of `files`.
struct Entry<'a> {
    index: usize,
    keys: &'a Map<String, Value>,
}

impl Entry<'_> {
    fn parse(&self, default: Mode) -> Result<Wanted, PublicReason> {
        for key in self.keys.keys() {
            if !FILE_KEYS.contains(&key.as_str()) {
                let (key, nearest) = (Quoted::new(key), nearest(key, &FILE_KEYS));
                let problem = format!("has the unknown key {key}; the nearest is {nearest}");
                return Err(wrong(format_args!("files[{}]", self.index), problem));
            }
        }
        let path = self
            .text("path")?
            .ok_or_else(|| self.wrong("path", "is missing"))?;
        let path = FilePath::parse(path).map_err(|error| self.wrong("path", error))?;
        let reference = self
            .text("ref")?
            .ok_or_else(|| self.wrong("ref", "is missing"))?;
        let reference: SecretRef = reference
            .parse()
            .map_err(|error| self.wrong("ref", error))?;
        if reference.field.is_none() {
            let mend = format_args!("needs a field: {reference}#FIELD");
            return Err(self.wrong("ref", mend));
        }
        let mode = match self.text("mode")? {
            Some(mode) => parse_mode(&format!("files[{}].mode", self.index), mode)?,
            None => default,
        };
        let optional = match self.keys.get("optional") {
            None => false,
            Some(Value::Bool(optional)) => *optional,
            Some(_) => return Err(self.wrong("optional", "must be true or false")),
        };
        Ok(Wanted {
            reference,
            place: Place::File { path, mode },
            optional,
        })
    }

    fn text(&self, key: &str) -> Result<Option<&str>, PublicReason> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "must be text; put it in quotes")),
        }
    }

    fn wrong(&self, key: &str, problem: impl fmt::Display) -> PublicReason {
        wrong(format_args!("files[{}].{key}", self.index), problem)
    }
}

/// Octal digits, three or with a leading 0.
fn parse_mode(attribute: &str, text: &str) -> Result<Mode, PublicReason> {
    match text {
        "0400" | "400" => Ok(Mode::Owner),
        "0440" | "440" => Ok(Mode::OwnerAndGroup),
        _ => {
            let mend = "must be \"0400\" (its owner reads) or \"0440\" (its group too), in quotes";
            Err(wrong(attribute, mend))
        }
    }
}

fn check_length(attribute: &str, text: &str) -> Result<(), PublicReason> {
    if text.len() > MAX_ATTRIBUTE_BYTES {
        let problem = format_args!("has more than {MAX_ATTRIBUTE_BYTES} bytes");
        return Err(wrong(attribute, problem));
    }
    Ok(())
}

fn wrong(attribute: impl fmt::Display, problem: impl fmt::Display) -> PublicReason {
    PublicReason::Attribute {
        attribute: attribute.to_string(),
        problem: problem.to_string(),
    }
}

/// The known word with the fewest edits; the first of equals.
fn nearest(word: &str, known: &[&'static str]) -> &'static str {
    // An edit distance costs the product of the lengths: a hostile word is cut.
    let word = word.get(..word.floor_char_boundary(64)).unwrap_or_default();
    let distance = |known: &&&'static str| strsim::osa_distance(word, known);
    known
        .iter()
        .min_by_key(distance)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
