//! Taking up a log at the start of a process.
//!
//! Only the last segment is read: its summary has the tree's right edge and what else is carried over. The pass over
//! it hashes every leaf; signatures are verified for its last checkpoints alone, since the last root covers all leaves
//! before it. A segment of 8 MiB takes some 30 ms, whatever the length of the log. Without its summary the segments
//! before it are read too, at the disk's speed.
//!
//! What one torn write explains is kept in a file, zeroed, and the cut goes on record before anything else (`torn.rs`);
//! but not where the store's anchor knows a checkpoint behind it, since that was durable before the store took it up.
//! Everything else keeps the broker from starting: this module must never zero a record that is known to have been
//! durable, and never write to a folder before the log in it has shown that it is this store's.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use attache_mtls::public_file::read_public;
use attache_translog::{
    AnchorNote, Checkpoint, Cut, Event, Frontier, HEADER_BYTES, Hash, Header, Leaf, LogKeys,
    Record, Records, RecoveryError, Verifier, leaf_hash, log_origin, recover,
};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};

use super::error::{AuditError, OpenError};
use super::explain::Index;
use super::read::Catalog;
use super::segment_file::{SegmentFile, held_path, list_segments, segment_path, spare_path};
use super::spare::Spares;
use super::summary::{Summary, key_name};
use super::torn::{self, Torn};
use super::writer::{Carried, Mark, Writer, is_disk_full};
use super::{AuditLog, CheckpointKeys, Head, LogOptions, LogState, QUEUE};

/// How long the folder's lock is waited for: a broker that was killed, and a child between fork and exec, hold it for
/// some more milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(5);
/// How many checkpoints at the end of a segment have their signatures verified.
const CHECKED_AT_END: usize = 64;

/// What a start found in the log.
#[derive(Debug)]
pub struct Recovered {
    /// How many leaves the log had, before a cut was put on record.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// What was cut, if the last write was torn.
    pub cut: Option<Cut>,
    /// Intents without an outcome: each has to be closed before a mutation is accepted.
    pub open_intents: Vec<OpenIntent>,
    /// The newest store anchor on record.
    pub audited: Option<AnchorNote>,
    /// The decisions at the end of the log, for [`super::Refusals`].
    pub(super) decisions: Index,
}

/// A mutation of which it is not known whether it is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIntent {
    /// The intent's index.
    pub index: u64,
    /// The operator's SPIFFE ID.
    pub operator: String,
    /// The request.
    pub request: [u8; 16],
    /// Its digest.
    pub digest: [u8; 32],
}

/// The log as read: what the writer goes on from.
struct Taken {
    file: Option<SegmentFile>,
    header: Header,
    /// The key of the last checkpoint.
    signed_by: Option<Verifier>,
    offset: u64,
    frontier: Frontier,
    carried: Carried,
    decisions: Index,
    /// What lies behind the last checkpoint.
    torn: Option<Torn>,
    /// Cuts that an earlier start began; whether they are on record.
    pending: Vec<(Cut, bool)>,
}

/// Everything that recovery needs to know of the log that it expects.
struct Expected<'a> {
    options: &'a LogOptions,
    header: Header,
    keys: LogKeys,
    /// The key that signs.
    active: Verifier,
    /// What summaries verify under: the key that signs.
    summaries: Verifier,
}

pub(super) fn open(
    options: LogOptions,
    keys: Box<dyn CheckpointKeys>,
) -> Result<(AuditLog, Recovered), OpenError> {
    let dir = options.dir.clone();
    let lock = lock_folder(&dir)?;
    let header = Header {
        store: *options.store.as_bytes(),
        chain: *options.chain.as_bytes(),
        first_index: 0,
    };
    let origin = log_origin(&header.store, &header.chain);
    let signer = keys.signer(&origin).map_err(|_| AuditError::Closed)?;
    let summaries = signer.verifier().named(&key_name(&origin));
    let expected = Expected {
        options: &options,
        header,
        keys: known_keys(keys.as_ref(), &origin).ok_or(AuditError::Closed)?,
        active: signer.verifier().clone(),
        summaries: summaries.map_err(|_| AuditError::Closed)?,
    };
    let segments = list_segments(&dir).map_err(|e| io_error("read", &dir, e))?;
    let mut taken = expected.take_up(&segments)?;
    let open_intents = expected.open_intents(&segments, &taken.carried)?;
    remove_drafts(&dir)?;
    let checkpoint = Checkpoint {
        size: taken.frontier.size(),
        root: taken.frontier.root(),
    };
    let note = checkpoint.sign(&signer).map_err(|_| AuditError::Closed)?;
    let vkey = signer.verifier().vkey().into();
    drop(signer);
    let catalog = Arc::new(Catalog::new(dir.clone(), &segments));
    let cuts = taken.make_cuts(&dir)?;
    let recovered = Recovered {
        size: checkpoint.size,
        root: checkpoint.root,
        cut: cuts
            .iter()
            .find_map(|(cut, on_record)| (!on_record).then(|| cut.clone())),
        open_intents,
        audited: taken.carried.anchor,
        decisions: std::mem::take(&mut taken.decisions),
    };
    let (head, heads) = watch::channel(Head {
        size: checkpoint.size,
        root: checkpoint.root,
        checkpoint: note.into(),
        vkey,
    });
    let (state, states) = watch::channel(LogState::Writing);
    let mut writer = Writer {
        folder: File::open(&dir).map_err(|e| io_error("open", &dir, e))?,
        spares: Spares::start(dir.clone(), options.segment_bytes)
            .map_err(|e| io_error("prepare segments in", &dir, e))?,
        segment_bytes: options.segment_bytes,
        catalog: Arc::clone(&catalog),
        dir: dir.clone(),
        header: taken.header,
        origin,
        keys,
        signed_by: taken.signed_by,
        file: taken.file,
        offset: taken.offset,
        frontier: taken.frontier,
        carried: taken.carried,
        head,
        state,
        _lock: lock,
    };
    let (jobs, queue) = mpsc::channel(QUEUE);
    let log = AuditLog {
        jobs,
        head: heads,
        state: states,
        catalog,
        options: Arc::new(options),
    };
    put_on_record(cuts, &mut writer, &log)?;
    thread::Builder::new()
        .name("audit-writer".into())
        .spawn(move || writer.run(queue))
        .map_err(|e| io_error("start the writer of", &dir, e))?;
    Ok((log, recovered))
}

/// Puts cuts on record, and notes of each that it is.
fn put_on_record(
    cuts: Vec<(Cut, bool)>,
    writer: &mut Writer,
    log: &AuditLog,
) -> Result<(), OpenError> {
    let dir = &log.options.dir;
    for (cut, on_record) in cuts {
        if !on_record {
            writer.append_now(&log.leaf(cut.clone()))?;
        }
        let kept = torn::recorded(dir, &cut).map_err(|e| io_error("keep a cut in", dir, e))?;
        tracing::warn!(offset = cut.offset, bytes = cut.bytes, leaves = cut.leaves, kept = %kept.display(),
            "the audit log ended behind its last checkpoint, as a crash leaves it: what was there is kept, and the cut is on record");
    }
    Ok(())
}

impl Expected<'_> {
    /// Reads the last segment and makes it ready to be written on.
    fn take_up(&self, segments: &[u64]) -> Result<Taken, OpenError> {
        let Some((&first_index, before)) = segments.split_last() else {
            self.check_length(0)?;
            return Ok(Taken {
                file: None,
                header: self.header,
                signed_by: None,
                offset: 0,
                frontier: Frontier::new(),
                carried: Carried::default(),
                decisions: Index::default(),
                torn: None,
                pending: Vec::new(),
            });
        };
        let path = segment_path(&self.options.dir, first_index);
        let bytes = self.read_segment(&path, first_index)?;
        let mut decisions = Index::default();
        let (start, carried) = self.state_before(first_index, before, &mut decisions)?;
        let end = self.verify_end(first_index, &bytes, start.clone())?;
        self.check_key(&end.signed_by, segments)?;
        self.check_length(end.frontier.size())?;
        let good = bytes.get(..end.offset).unwrap_or_default();
        self.check_history(segments, (first_index, &start, good))?;
        let carried = carry_over(good, first_index, carried, &mut decisions)?;
        let pending = torn::pending(&self.options.dir, end.frontier.size())
            .map_err(|e| io_error("read", &self.options.dir, e))?
            .into_iter()
            .map(|cut| (cut.clone(), torn::is_on_record(good, &cut)))
            .collect();
        let file = SegmentFile::open(&path, self.options.segment_bytes)
            .map_err(|e| segment_error(&path, self.options.segment_bytes, e))?;
        let tail = bytes.get(end.offset..).unwrap_or_default();
        Ok(Taken {
            file: Some(file),
            header: Header {
                first_index,
                ..self.header
            },
            signed_by: Some(end.signed_by),
            offset: end.offset as u64,
            frontier: end.frontier,
            carried,
            decisions,
            torn: end.cut.map(|cut| Torn {
                cut,
                tail: tail.to_vec(),
            }),
            pending,
        })
    }

    /// Refuses a log in which the key before signed last although the one that signs now has signed already: whoever has the
    /// one before may have added to it.
    fn check_key(&self, last: &Verifier, segments: &[u64]) -> Result<(), OpenError> {
        if *last == self.active {
            return Ok(());
        }
        for &segment in segments {
            let path = segment_path(&self.options.dir, segment);
            let bytes = self.read_segment(&path, segment)?;
            let signed = Records::new(&bytes).any(|(_, record)| match record {
                Ok(Record::Checkpoint(note)) => std::str::from_utf8(note)
                    .is_ok_and(|note| Checkpoint::open(note, &self.active).is_ok()),
                Ok(Record::Leaf(_)) | Err(_) => false,
            });
            if signed {
                return Err(OpenError::Unverifiable { path });
            }
        }
        Ok(())
    }

    /// Refuses a log that ends before the checkpoint that the store's anchor knows.
    fn check_length(&self, found: u64) -> Result<(), OpenError> {
        match self.options.anchored {
            Some((anchored, _)) if found < anchored => Err(OpenError::Behind { found, anchored }),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a log whose tree is not the one that the store's anchor knows; reads the one segment in which that ends.
    fn check_history(
        &self,
        segments: &[u64],
        (last, start, in_last): (u64, &Frontier, &[u8]),
    ) -> Result<(), OpenError> {
        let Some((size, root)) = self.options.anchored.filter(|(size, _)| *size > 0) else {
            return Ok(());
        };
        let found = if size >= last {
            root_at(in_last, start.clone(), size)
        } else {
            let within = segments.partition_point(|first| *first < size);
            let at = within.checked_sub(1).ok_or(OpenError::Gap { index: 0 })?;
            let (before, rest) = segments.split_at(at);
            let first = *rest.first().ok_or(OpenError::Gap { index: 0 })?;
            let (start, _) = self.state_before(first, before, &mut Index::default())?;
            let path = segment_path(&self.options.dir, first);
            root_at(&self.read_segment(&path, first)?, start, size)
        };
        if found == Some(root) {
            Ok(())
        } else {
            Err(OpenError::Forked { size })
        }
    }

    /// The tree and what is carried where the last segment begins: from its summary, or by reading all before it.
    fn state_before(
        &self,
        first_index: u64,
        before: &[u64],
        decisions: &mut Index,
    ) -> Result<(Frontier, Carried), OpenError> {
        let dir = &self.options.dir;
        if first_index > 0
            && let Some(summary) = Summary::load(dir, first_index, &self.summaries)
            && let Some((frontier, carried)) = summary.resume()
        {
            return Ok((frontier, carried));
        }
        if first_index > 0 {
            tracing::warn!(
                first_index,
                "the last audit segment has no summary that verifies: reading the whole log"
            );
        }
        let (mut frontier, mut carried) = (Frontier::new(), Carried::default());
        for &segment in before {
            if segment != frontier.size() {
                return Err(OpenError::Gap {
                    index: frontier.size(),
                });
            }
            let bytes = self.read_segment(&segment_path(dir, segment), segment)?;
            frontier = Pass::over(&bytes, frontier).frontier;
            carried = carry_over(&bytes, segment, carried, decisions)?;
        }
        if frontier.size() == first_index {
            Ok((frontier, carried))
        } else {
            Err(OpenError::Gap {
                index: frontier.size(),
            })
        }
    }

    /// Finds the last checkpoint that verifies, and what a torn write left behind it.
    fn verify_end(
        &self,
        first_index: u64,
        bytes: &[u8],
        start: Frontier,
    ) -> Result<End, OpenError> {
        let path = segment_path(&self.options.dir, first_index);
        let pass = Pass::over(bytes, start.clone());
        // The end alone first. Should nothing in it verify, the whole segment says where it goes wrong.
        let whole = (HEADER_BYTES, start);
        let places = pass.last_places.front().into_iter().chain([&whole]);
        for (from, frontier) in places {
            let header = Header {
                first_index: frontier.size(),
                ..self.header
            };
            let end = [&header.encode(), bytes.get(*from..).unwrap_or_default()].concat();
            let found = match recover(&[&end], &self.keys, frontier.clone()) {
                Ok(found) => found,
                Err(_) if *from != HEADER_BYTES => continue,
                Err(error) => return Err(refuse(path, &error)),
            };
            let Some(signed_by) = found.signed_by else {
                continue;
            };
            let offset = found.offset - HEADER_BYTES + from;
            let size = found.frontier.size();
            let cut = found
                .torn
                .map(|torn| torn::cut_of(first_index, offset as u64, torn, size));
            return Ok(End {
                offset,
                frontier: found.frontier,
                signed_by,
                cut,
            });
        }
        Err(OpenError::Unverifiable { path })
    }

    /// Reads the intents that are still open. Those of older segments are believed once their whole segment has the root
    /// with which the next one begins.
    fn open_intents(
        &self,
        segments: &[u64],
        carried: &Carried,
    ) -> Result<Vec<OpenIntent>, OpenError> {
        let mut intents = Vec::new();
        let mut read: Option<(u64, Vec<u8>)> = None;
        for &index in &carried.open_intents {
            let gap = OpenError::Gap { index };
            let at = segments.partition_point(|first| *first <= index);
            let Some((&first, before)) = segments.get(..at).and_then(<[u64]>::split_last) else {
                return Err(gap);
            };
            if read.as_ref().is_none_or(|(of, _)| *of != first) {
                let bytes = self.read_segment(&segment_path(&self.options.dir, first), first)?;
                if let Some(&next) = segments.get(at) {
                    self.check_whole(&bytes, (first, before), (next, segments.get(..at)))?;
                }
                read = Some((first, bytes));
            }
            let segment = read.as_ref().map_or(&[][..], |(_, bytes)| bytes);
            let body = Records::new(segment)
                .leaves()
                .zip(first..)
                .find_map(|(body, at)| (at == index).then_some(body));
            let leaf = body.and_then(|body| Leaf::parse(body).ok());
            let Some(Event::Intent(intent)) = leaf.map(|leaf| leaf.event) else {
                return Err(gap);
            };
            intents.push(OpenIntent {
                index,
                operator: intent.operator,
                request: intent.request,
                digest: intent.digest,
            });
        }
        Ok(intents)
    }

    /// Refuses a segment whose leaves are not those that the next segment follows.
    fn check_whole(
        &self,
        bytes: &[u8],
        (first, before): (u64, &[u64]),
        (next, before_next): (u64, Option<&[u64]>),
    ) -> Result<(), OpenError> {
        let mut unused = Index::default();
        let (start, _) = self.state_before(first, before, &mut unused)?;
        let (known, _) = self.state_before(next, before_next.unwrap_or_default(), &mut unused)?;
        if root_at(bytes, start, next) == Some(known.root()) {
            return Ok(());
        }
        Err(OpenError::Unverifiable {
            path: segment_path(&self.options.dir, first),
        })
    }

    fn read_segment(&self, path: &Path, first_index: u64) -> Result<Vec<u8>, OpenError> {
        let bytes = read_public(path, u64::MAX).map_err(|e| io_error("read", path, e))?;
        let header = Header::parse(&bytes).map_err(|_| OpenError::Header {
            path: path.to_owned(),
        })?;
        let expected = Header {
            first_index,
            ..self.header
        };
        if header == expected {
            Ok(bytes)
        } else {
            Err(OpenError::OtherLog {
                path: path.to_owned(),
            })
        }
    }
}

/// Where the log goes on.
struct End {
    offset: usize,
    frontier: Frontier,
    signed_by: Verifier,
    cut: Option<Cut>,
}

/// A pass over one segment that believes every record: the roots say later whether that was right.
struct Pass {
    frontier: Frontier,
    /// Behind each of the last checkpoints: the offset, and the tree there.
    last_places: VecDeque<(usize, Frontier)>,
}

impl Pass {
    fn over(segment: &[u8], start: Frontier) -> Self {
        let mut pass = Self {
            frontier: start,
            last_places: VecDeque::new(),
        };
        let mut records = Records::new(segment);
        while let Some((_, Ok(record))) = records.next() {
            match record {
                Record::Leaf(body) => pass.frontier.append(leaf_hash(body)),
                Record::Checkpoint(_) => {
                    if pass.last_places.len() == CHECKED_AT_END {
                        pass.last_places.pop_front();
                    }
                    pass.last_places
                        .push_back((records.offset(), pass.frontier.clone()));
                }
            }
        }
        pass
    }
}

/// The root over the first `size` leaves, if the segment has the last of them. It is what it is only for these leaves:
/// whoever compares it with a known root has verified each.
fn root_at(segment: &[u8], start: Frontier, size: u64) -> Option<Hash> {
    let mut frontier = start;
    let mut leaves = Records::new(segment).leaves();
    while frontier.size() < size {
        frontier.append(leaf_hash(leaves.next()?));
    }
    (frontier.size() == size).then(|| frontier.root())
}

/// Takes up what the leaves of a segment carry over to the next.
fn carry_over(
    segment: &[u8],
    first_index: u64,
    mut carried: Carried,
    decisions: &mut Index,
) -> Result<Carried, OpenError> {
    for (body, index) in Records::new(segment).leaves().zip(first_index..) {
        // Passed over, an intent would stay open for ever and an anchor be forgotten.
        let leaf = Leaf::parse(body).map_err(|_| OpenError::UnknownLeaf { index })?;
        carried.take(index, Mark::of(&leaf.event));
        decisions.take(leaf);
    }
    Ok(carried)
}

impl Taken {
    /// Keeps and zeroes what lies behind the last checkpoint; answers the cuts that are to be put on record, or are.
    fn make_cuts(&mut self, dir: &Path) -> Result<Vec<(Cut, bool)>, OpenError> {
        let mut cuts = std::mem::take(&mut self.pending);
        if let (Some(torn), Some(file)) = (self.torn.take(), &self.file) {
            torn.keep(dir)
                .and_then(|()| file.zero(torn.cut.offset, &torn.tail))
                .map_err(|e| io_error("cut the torn end of the log in", dir, e))?;
            let place = |cut: &Cut| (cut.segment, cut.offset);
            if !cuts.iter().any(|(cut, _)| place(cut) == place(&torn.cut)) {
                cuts.push((torn.cut, false));
            }
        }
        Ok(cuts)
    }
}

/// Makes the folder if it is not there, and takes it for this process.
fn lock_folder(dir: &Path) -> Result<File, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| io_error("make", dir, e))?;
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error("open", &path, e))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if Instant::now() < patience => thread::sleep(LOCK_LOOK),
            Err(Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    path: dir.to_owned(),
                });
            }
            Err(errno) => return Err(io_error("lock", &path, errno.into())),
        }
    }
}

/// Removes what a crash left of a segment, a summary or a copy that was never named. Other files are not ours.
fn remove_drafts(dir: &Path) -> Result<(), OpenError> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("read", dir, e))?;
    let drafts: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            [spare_path(dir), held_path(dir)].contains(path)
                || Summary::is_draft(path)
                || torn::is_draft(path)
        })
        .collect();
    for path in drafts {
        fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
    }
    Ok(())
}

fn known_keys(keys: &dyn CheckpointKeys, origin: &str) -> Option<LogKeys> {
    // The last checkpoint is of the key that signs, or of the one before it.
    let public = keys.public().ok()?;
    let last_two = public.get(public.len().saturating_sub(2)..)?.iter();
    let keys: Result<_, _> = last_two
        .copied()
        .map(|key| Verifier::new(origin, key))
        .collect();
    LogKeys::all_known(keys.ok()?)
}

fn refuse(path: PathBuf, error: &RecoveryError) -> OpenError {
    match error {
        RecoveryError::Damaged { offset, .. } => OpenError::Damaged {
            path,
            offset: *offset as u64,
        },
        RecoveryError::Header { .. } => OpenError::Header { path },
        RecoveryError::Key(_) | RecoveryError::Empty | RecoveryError::OtherLog { .. } => {
            OpenError::Unverifiable { path }
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn segment_error(path: &Path, needed_bytes: u64, source: io::Error) -> OpenError {
    if is_disk_full(&source) {
        let path = path.to_owned();
        OpenError::DiskFull { path, needed_bytes }
    } else {
        io_error("write", path, source)
    }
}
