//! A cluster as a folder of records, for machines without a cluster and for tests.
//!
//! ```text
//! DIR/jwks.json    DIR/nodes/NAME.json    DIR/pods/NAMESPACE/NAME.json (then .yaml, .yml: the first that is there)
//! ```
//! Its writer renames each file into place. Every attestation asks the file system anew: a file is opened beneath the
//! folder without following a link, and its parsed form is used again only if inode, size and times are those of the
//! last reading, and that reading was not so close to the last change that a second one could have the same times.
//!
//! Opening and stat are answered from the kernel's directory cache in a few microseconds and stay on the runtime's
//! thread; reading and parsing do not. The folder must be on a local file system.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use attache_envelope::name::{Namespace, NodeName, PodName};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::super::jwks::{KeySet, MAX_JWKS_BYTES};
use super::super::recent::Recent;
use super::super::token::{PodIdentity, PodToken};
use super::object::{NodeObject, PodObject};
use super::{Bound, FactFuture, FactsError, PodFacts, parse_yaml};

/// The most bytes of a pod's or node's record: etcd, where they come from, holds no larger one.
const MAX_OBJECT_BYTES: usize = 1024 * 1024;
/// How deep a record in YAML may nest.
const MAX_YAML_DEPTH: usize = 32;
/// How many parsed records of each kind are kept at least.
const KEPT: usize = 2048;
/// Times of files are as coarse as the kernel's tick, 10 ms at most.
const TICK: Duration = Duration::from_millis(50);
/// What a pod's record may be called, in the order of asking.
const POD_EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The folder source.
pub struct FolderFacts {
    dir: Arc<Path>,
    keys: Kept<KeySet>,
    nodes: Kept<NodeObject>,
    pods: Kept<PodObject>,
}

impl FolderFacts {
    /// A source over this folder; nothing is opened yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            keys: Kept::new(),
            nodes: Kept::new(),
            pods: Kept::new(),
        }
    }

    /// The record in `relative`, parsed now or before.
    async fn record<T: Send + Sync + 'static>(
        &self,
        kept: &Kept<T>,
        relative: String,
        limit_bytes: usize,
        parse: fn(&[u8], &Path) -> Result<T, FactsError>,
    ) -> Result<Option<Arc<T>>, FactsError> {
        let path = self.dir.join(&relative);
        let asked = SystemTime::now();
        let Some((file, stamp)) = open_beneath(&self.dir, &relative, &path)? else {
            return Ok(None);
        };
        if let Some(value) = kept.find(&relative, &stamp) {
            return Ok(Some(value));
        }
        let read = move || {
            let bytes = read_bounded(file, limit_bytes, &path)?;
            parse(&bytes, &path)
        };
        let value = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| FactsError::Stopping)??;
        let value = Arc::new(value);
        if stamp.is_settled(asked) {
            kept.keep(relative, stamp, Arc::clone(&value));
        }
        Ok(Some(value))
    }

    async fn key_set(&self) -> Result<Arc<KeySet>, FactsError> {
        let parse = |bytes: &[u8], path: &Path| {
            KeySet::parse(bytes).map_err(|source| FactsError::Keys {
                path: path.into(),
                source,
            })
        };
        let relative = "jwks.json".to_owned();
        let keys = self
            .record(&self.keys, relative, MAX_JWKS_BYTES, parse)
            .await?;
        keys.ok_or_else(|| FactsError::Io {
            path: self.dir.join("jwks.json"),
            source: Errno::NOENT.into(),
        })
    }

    async fn node_object(&self, name: &NodeName) -> Result<Option<Arc<NodeObject>>, FactsError> {
        let relative = format!("nodes/{name}.json");
        let node = self
            .record(&self.nodes, relative, MAX_OBJECT_BYTES, parse_json)
            .await?;
        match node {
            Some(node) if node.name != *name => {
                Err(misplaced(self.dir.join(format!("nodes/{name}.json"))))
            }
            node => Ok(node),
        }
    }

    async fn pod_object(
        &self,
        namespace: &Namespace,
        name: &PodName,
    ) -> Result<Option<Arc<PodObject>>, FactsError> {
        for extension in POD_EXTENSIONS {
            let relative = format!("pods/{namespace}/{name}.{extension}");
            let parse = if extension == "json" {
                parse_json
            } else {
                parse_record_yaml
            };
            let found = self
                .record(&self.pods, relative, MAX_OBJECT_BYTES, parse)
                .await?;
            let Some(pod) = found else { continue };
            if pod.namespace != *namespace || pod.name != *name {
                let relative = format!("pods/{namespace}/{name}.{extension}");
                return Err(misplaced(self.dir.join(relative)));
            }
            return Ok(Some(pod));
        }
        Ok(None)
    }
}

impl PodFacts for FolderFacts {
    /// Whatever was not found: the file is read anew in any case.
    fn keys<'a>(&'a self, _: Option<&'a Arc<KeySet>>) -> FactFuture<'a, Arc<KeySet>> {
        Box::pin(self.key_set())
    }

    fn node<'a>(&'a self, name: &'a NodeName) -> FactFuture<'a, Option<Arc<NodeObject>>> {
        Box::pin(self.node_object(name))
    }

    fn known_node<'a>(
        &'a self,
        name: &'a NodeName,
        _: &'a str,
    ) -> FactFuture<'a, Option<Arc<NodeObject>>> {
        Box::pin(self.node_object(name))
    }

    fn bound<'a>(&'a self, _: &'a PodToken, identity: &'a PodIdentity) -> FactFuture<'a, Bound> {
        Box::pin(async move {
            Ok(Bound {
                token: Ok(()),
                pod: self
                    .pod_object(&identity.namespace, &identity.pod_name)
                    .await?,
                node: self.node_object(&identity.node_name).await?,
            })
        })
    }
}

/// What tells one content of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }

    /// Whether every change after `asked` shows in the stamp, which was taken after it: not when the last one is within
    /// a tick of it, or ahead.
    fn is_settled(&self, asked: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        asked.duration_since(changed).is_ok_and(|age| age > TICK)
    }
}

/// Parsed records by their path within the folder.
struct Kept<T>(Mutex<Recent<String, (Stamp, Arc<T>)>>);

impl<T> Kept<T> {
    fn new() -> Self {
        Self(Mutex::new(Recent::new(KEPT)))
    }

    fn find(&self, relative: &str, stamp: &Stamp) -> Option<Arc<T>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, value) = kept.find(relative)?;
        (of == *stamp).then_some(value)
    }

    fn keep(&self, relative: String, stamp: Stamp, value: Arc<T>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keep(relative, (stamp, value));
    }
}

/// Opens a regular file beneath `dir`; none when there is none.
fn open_beneath(
    dir: &Path,
    relative: &str,
    path: &Path,
) -> Result<Option<(OwnedFd, Stamp)>, FactsError> {
    let io = |errno: Errno, path: &Path| FactsError::Io {
        path: path.into(),
        source: errno.into(),
    };
    // The folder itself may be reached through links: that path is the operator's.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, flags, Mode::empty()).map_err(|errno| io(errno, dir))?;
    // Not blocking: a pipe in a record's place must not hold a thread.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&root, relative, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => return Err(FactsError::Link { path: path.into() }),
        Err(errno) => return Err(io(errno, path)),
    };
    let wanted = StatxFlags::BASIC_STATS;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, wanted).map_err(|errno| io(errno, path))?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(FactsError::NotRegular { path: path.into() });
    }
    Ok(Some((file, Stamp::of(&stat))))
}

fn read_bounded(file: OwnedFd, limit_bytes: usize, path: &Path) -> Result<Vec<u8>, FactsError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let read = File::from(file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes);
    read.map_err(|source| FactsError::Io {
        path: path.into(),
        source,
    })?;
    if bytes.len() > limit_bytes {
        return Err(FactsError::TooLarge {
            path: path.into(),
            limit_bytes,
        });
    }
    Ok(bytes)
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, FactsError> {
    serde_json::from_slice(bytes).map_err(|error| FactsError::Object {
        path: path.into(),
        problem: error.to_string(),
    })
}

fn parse_record_yaml<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, FactsError> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string());
    text.and_then(|text| parse_yaml(text, MAX_YAML_DEPTH))
        .map_err(|problem| FactsError::Object {
            path: path.into(),
            problem,
        })
}

fn misplaced(path: PathBuf) -> FactsError {
    let problem = "its metadata names another object than its path".to_owned();
    FactsError::Object { path, problem }
}

#[cfg(test)]
mod tests;
