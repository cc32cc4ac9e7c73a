//! Which files a volume is to hold: as the pod asks for them, and as they come out once fields are known.
//!
//! ```text
//! volumeAttributes -> WantedFiles            attributes.rs; references and where each goes
//! WantedFiles + granted fields -> FilePlan   plan_files; paths, modes, and what is missing
//! ```
//! Pure. A path that is not canonical, relative and free of every other file's cannot be made here.

use std::collections::BTreeMap;
use std::fmt;

use attache_envelope::name::{FieldName, SecretRef, WorkloadRef};
use thiserror::Error;

use super::quoted::Quoted;
use super::refusal::{PublicReason, Refusal};

/// The most files in a volume.
pub const MAX_FILES: usize = 256;
/// The most bytes of a path.
pub const MAX_PATH_BYTES: usize = 1024;
/// The most bytes of one part of a path: the file system's.
pub const MAX_PART_BYTES: usize = 255;
/// The most parts of a path.
pub const MAX_PARTS: usize = 8;
/// The file of every volume that says what it holds.
const METADATA_NAME: &str = ".attache.json";

/// A file's permission bits: read by its owner, and perhaps by its group. Nothing else makes sense in a volume that is
/// never written through, runs nothing and belongs to one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// 0400.
    Owner,
    /// 0440.
    OwnerAndGroup,
}

impl Mode {
    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Owner => 0o400,
            Self::OwnerAndGroup => 0o440,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.bits())
    }
}

/// A relative, canonical path within a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Box<str>);

/// Why a text is no path of a file in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing, or too much.
    #[error("must have 1 to {MAX_PATH_BYTES} bytes")]
    Length,
    /// It begins at the root.
    #[error("must be relative: leave out the leading /")]
    Absolute,
    /// Too many folders.
    #[error("must have at most {MAX_PARTS} parts")]
    Depth,
    /// `//`, or `/` at the end.
    #[error("must not have an empty part: leave out the second or last /")]
    EmptyPart,
    /// A part of the file system's own.
    #[error("must not have a part that is . or begins with ..")]
    Dots,
    /// A part that no file system holds.
    #[error("must have parts of at most {MAX_PART_BYTES} bytes")]
    PartLength,
    /// NUL, a line's end and the like.
    #[error("must not have a control character")]
    Control,
    /// The volume's own file.
    #[error("must not begin with {METADATA_NAME}, which the volume itself has")]
    Reserved,
}

impl FilePath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`PathError`], which does not repeat the path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() || text.len() > MAX_PATH_BYTES {
            return Err(PathError::Length);
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            return Err(PathError::Control);
        }
        if text.split('/').count() > MAX_PARTS {
            return Err(PathError::Depth);
        }
        for part in text.split('/') {
            match part {
                "" => return Err(PathError::EmptyPart),
                "." => return Err(PathError::Dots),
                _ if part.starts_with("..") => return Err(PathError::Dots),
                _ if part.len() > MAX_PART_BYTES => return Err(PathError::PartLength),
                _ => {}
            }
        }
        if text.split('/').next() == Some(METADATA_NAME) {
            return Err(PathError::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where what a reference names goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Each field as a file of its name in a folder of the secret's own name: `layout: by-name`.
    Folder,
    /// Each field as a file of its name: `layout: flat`.
    Root,
    /// One field as this file: `files`.
    File {
        /// The path.
        path: FilePath,
        /// Its mode.
        mode: Mode,
    },
}

/// One reference of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub reference: SecretRef,
    /// Where to.
    pub place: Place,
    /// Whether the volume comes without it when it is absent or not granted.
    pub optional: bool,
}

/// What a pod asks for, parsed: at least one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFiles {
    pub(super) wanted: Vec<Wanted>,
    pub(super) mode: Mode,
}

impl WantedFiles {
    /// The references, in the order of the pod.
    #[must_use]
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The modes that occur.
    pub(super) fn modes(&self) -> impl Iterator<Item = Mode> {
        self.wanted.iter().map(|wanted| match &wanted.place {
            Place::Folder | Place::Root => self.mode,
            Place::File { mode, .. } => *mode,
        })
    }
}

/// What there is for one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// The fields that exist **and** are granted.
    pub fields: Vec<FieldName>,
    /// Why there is nothing, if so: for the audit log.
    pub true_reason: String,
}

/// One file to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its path.
    pub path: FilePath,
    /// Its mode.
    pub mode: Mode,
    /// Which reference it comes from, by its place in [`WantedFiles::wanted`].
    pub wanted: usize,
    /// Which field it holds.
    pub field: FieldName,
}

/// The files of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Sorted by path; no path twice, and none that is also a folder of another.
    pub files: Vec<PlannedFile>,
    /// Optional references that are absent or not granted.
    pub missing: Vec<SecretRef>,
}

/// Lays out a volume: `available` has one entry for each reference, in their order.
///
/// Fields that are not granted are left out of a reference to a whole secret, so that a secret may get a field that a
/// workload must not read. A reference of which nothing is granted refuses the volume unless it is optional.
///
/// # Errors
/// [`PublicReason::NotGranted`], [`PublicReason::SharedPath`], [`PublicReason::TooManyFiles`],
/// [`PublicReason::Attribute`] for a file in another's place.
pub fn plan_files(
    wanted: &WantedFiles,
    workload: &WorkloadRef,
    available: &[Available],
) -> Result<FilePlan, Refusal> {
    let mut files: Vec<PlannedFile> = Vec::new();
    let mut missing = Vec::new();
    for (index, one) in wanted.wanted.iter().enumerate() {
        let fields = available
            .get(index)
            .map_or(&[][..], |available| &available.fields);
        if fields.is_empty() {
            if !one.optional {
                let why = available
                    .get(index)
                    .map_or("", |available| &available.true_reason);
                return Err(not_granted(workload, &one.reference, why));
            }
            missing.push(one.reference.clone());
        }
        for field in fields {
            files.push(PlannedFile {
                path: path_of(one, field)?,
                mode: match &one.place {
                    Place::Folder | Place::Root => wanted.mode,
                    Place::File { mode, .. } => *mode,
                },
                wanted: index,
                field: field.clone(),
            });
        }
    }
    if files.len() > MAX_FILES {
        let (found, limit) = (files.len(), MAX_FILES);
        return Err(PublicReason::TooManyFiles { found, limit }.into());
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    check_apart(
        files.iter().map(|file| (&file.path, file.wanted)),
        &wanted.wanted,
    )?;
    Ok(FilePlan { files, missing })
}

/// The one refusal for what is absent and for what is not granted.
#[must_use]
pub fn not_granted(workload: &WorkloadRef, reference: &SecretRef, true_reason: &str) -> Refusal {
    let public = PublicReason::NotGranted {
        workload: Box::new(workload.clone()),
        reference: Box::new(reference.clone()),
    };
    Refusal::new(public, true_reason)
}

/// Refuses two files of one path, and a file that is another's folder.
pub(super) fn check_apart<'a>(
    files: impl Iterator<Item = (&'a FilePath, usize)>,
    wanted: &[Wanted],
) -> Result<(), PublicReason> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for (path, index) in files {
        if let Some(other) = taken.insert(path.as_str(), index) {
            return Err(shared(wanted, other, index, path.as_str()));
        }
    }
    for (path, index) in &taken {
        for (at, _) in path.match_indices('/') {
            let folder = path.get(..at).unwrap_or_default();
            if let Some(other) = taken.get(folder) {
                return Err(shared(wanted, *other, *index, folder));
            }
        }
    }
    Ok(())
}

/// The refusal for two references that meet in `path`, in the order of the pod.
pub(super) fn shared(wanted: &[Wanted], a: usize, b: usize, path: &str) -> PublicReason {
    let reference = |index: usize| {
        wanted
            .get(index)
            .map(|wanted| Box::new(wanted.reference.clone()))
    };
    match (reference(a.min(b)), reference(a.max(b))) {
        (Some(first), Some(second)) => {
            let path = Quoted::new(path);
            PublicReason::SharedPath {
                first,
                second,
                path,
            }
        }
        // Not reached: the indices are of this list.
        _ => PublicReason::Attribute {
            attribute: "files".into(),
            problem: "has a path twice".into(),
        },
    }
}

fn path_of(wanted: &Wanted, field: &FieldName) -> Result<FilePath, PublicReason> {
    let text = match &wanted.place {
        Place::File { path, .. } => return Ok(path.clone()),
        Place::Root => field.to_string(),
        Place::Folder => format!("{}/{field}", folder_of(&wanted.reference)),
    };
    FilePath::parse(&text).map_err(|error| PublicReason::Attribute {
        attribute: "secrets".into(),
        problem: format!("would make a path that {error}; use volumeAttributes.files"),
    })
}

/// The folder of a secret under `layout: by-name`: the last segment of its name.
pub(super) fn folder_of(reference: &SecretRef) -> &str {
    let name = reference.path.name.as_str();
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

#[cfg(test)]
mod tests;
