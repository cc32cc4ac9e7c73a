//! `.attache.json`: what a volume says of itself, to the application and to an agent that has restarted.
//!
//! ```json
//! {"format": 1,
//!  "generation": {"incarnation": 1, "seq": 42, "digest": "<64 hex>"},
//!  "deliveredAt": "2026-11-23T10:00:00Z",
//!  "files": [{"path": "db/password", "ref": "payments/db@2#password", "mode": "0400"}],
//!  "missing": ["payments/api"],
//!  "fileSet": "<64 hex>"}
//! ```
//! No value, nothing of one, no token. It lies in the generation that it describes and is swapped in with it, so it
//! cannot disagree with the files; `fileSet` ([`FileSet`]) shows whether the mount still is what was written. Where
//! the lists would take it over its limit they are left out, and `"truncated": true` says so.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::Release;
use crate::ipc::generation::MAX_METADATA_BYTES;
use crate::ipc::{FileSet, Generation, VolumeStat};

const FORMAT: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    format: u32,
    generation: HexGeneration,
    delivered_at: String,
    files: Vec<WrittenFile<'a>>,
    missing: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    file_set: String,
}

#[derive(Serialize, Deserialize)]
struct HexGeneration {
    incarnation: u32,
    seq: u64,
    digest: String,
}

#[derive(Serialize)]
struct WrittenFile<'a> {
    path: &'a str,
    #[serde(rename = "ref")]
    reference: String,
    mode: String,
}

/// What an agent reads back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    format: u32,
    generation: HexGeneration,
    file_set: String,
}

/// The metadata of a release, as JSON.
pub(super) fn write(release: &Release, set: &FileSet, now: Timestamp) -> Vec<u8> {
    let files = release.files.iter().filter_map(|file| {
        let granted = release.granted.get(file.value)?;
        Some(WrittenFile {
            path: &file.path,
            reference: format!("{}@{}#{}", granted.path, granted.version, granted.field),
            mode: format!("{:04o}", file.mode),
        })
    });
    let mut written = Written {
        format: FORMAT,
        generation: HexGeneration {
            incarnation: release.generation.incarnation,
            seq: release.generation.seq,
            digest: hex::encode(release.generation.digest),
        },
        delivered_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        files: files.collect(),
        missing: release.missing.iter().map(ToString::to_string).collect(),
        truncated: false,
        file_set: hex::encode(set.digest()),
    };
    let json = to_json(&written);
    if json.len() <= MAX_METADATA_BYTES {
        return json;
    }
    written.files.clear();
    written.missing.clear();
    written.truncated = true;
    to_json(&written)
}

fn to_json(written: &Written<'_>) -> Vec<u8> {
    // Strings and numbers under known keys always encode.
    let mut json = serde_json::to_vec(written).unwrap_or_default();
    json.push(b'\n');
    json
}

/// The generation of a mounted volume that is exactly what an agent once wrote and had verified; none otherwise.
///
/// Metadata, folder and files must agree. Whether the volume is also free of leftovers is [`VolumeStat::whole`].
pub(super) fn held(stat: &VolumeStat, metadata: Option<&[u8]>) -> Option<Generation> {
    let read: Read = serde_json::from_slice(metadata?).ok()?;
    let mut digest = [0; 32];
    hex::decode_to_slice(&read.generation.digest, &mut digest).ok()?;
    let generation = Generation {
        incarnation: read.generation.incarnation,
        seq: read.generation.seq,
        digest,
    };
    let agrees = read.format == FORMAT
        && stat.mounted
        && stat.generation == Some(generation.folder())
        && read.file_set == hex::encode(stat.file_set);
    agrees.then_some(generation)
}

#[cfg(test)]
mod tests;
