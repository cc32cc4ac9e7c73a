//! `attache audit verify`: the whole log computed again and held against what was signed.
//!
//! Online the leaves come from the broker, which need not be believed: each is hashed here, and the root must be the one
//! in the signed checkpoint. Offline the segment files of an audit folder are read as an enemy would have left them.
//! Either way a log alone does not show that its end is missing or that there are two of it: `--at-least` does, with a
//! checkpoint that was kept elsewhere by `--save`, which never replaces one that the log does not continue. And a key that comes from the broker itself proves only that the
//! broker agrees with itself: `--vkey` pins it. The pinned key may be any that the log was signed with: each endorses the next, on
//! record.

use std::fs;
use std::path::{Path, PathBuf};

use attache_mtls::private_file::write_private;
use attache_mtls::public_file::read_public;
use attache_proto::attache::v1::{self as pb, audit_client::AuditClient};
use attache_translog::{
    Audit, Checkpoint, CheckpointError, Event, Frontier, Hash, Leaf, LogKeys, NoteError, Record,
    Records, Report as LogReport, Succession, Verifier, leaf_hash,
};
use serde::Serialize;

use super::audit::Leaves;
use super::{Shell, hex};
use crate::args::audit::Verify;
use crate::failure::{Exit, Failure, chain};
use crate::output::{Human, Report};
use crate::session::Session;

/// A segment is never larger than this.
const SEGMENT_LIMIT_BYTES: u64 = 1 << 30;
/// A kept checkpoint is never larger than this.
const NOTE_LIMIT_BYTES: u64 = 64 * 1024;
const WHAT: &str = "the log was not verified";

#[derive(Debug, Serialize)]
struct VerifyJson {
    clean: bool,
    vkey: String,
    leaves: u64,
    checkpoint: Option<CheckpointJson>,
    findings: Vec<FindingJson>,
}

#[derive(Debug, Serialize)]
struct CheckpointJson {
    size: u64,
    root: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct FindingJson {
    /// The segment's file, offline.
    file: Option<String>,
    /// The byte in it.
    offset: Option<usize>,
    /// The leaf.
    index: u64,
    finding: String,
}

/// What a verification came to.
struct Verdict {
    verifier: Verifier,
    leaves: u64,
    /// Up to which all is as it was signed, with the note that says so.
    checkpoint: Option<(Checkpoint, String)>,
    findings: Vec<FindingJson>,
}

/// Verifies a log and says what was found; [`Exit::Found`] when anything was.
///
/// # Errors
/// When it could not be read, which is not a finding.
pub async fn verify(args: Verify, shell: &Shell) -> Result<Report, Failure> {
    let kept = kept_file(&args)?.map(read_note).transpose()?;
    let verdict = match (&args.dir, &args.vkey) {
        (Some(dir), Some(vkey)) => offline(dir, vkey, kept.as_deref())?,
        (Some(_), None) => {
            return Err(Failure::usage(WHAT)
                .because("a folder does not say whose it is")
                .mend("give --vkey"));
        }
        (None, pinned) => {
            if pinned.is_none() {
                shell
                    .console
                    .hint("the key is the broker's own word; --vkey pins it");
            }
            online(
                &shell.session().await?,
                pinned.as_ref(),
                kept.as_deref(),
                shell,
            )
            .await?
        }
    };
    if let (Some(file), Some((_, note)), true) =
        (&args.save, &verdict.checkpoint, verdict.findings.is_empty())
    {
        write_private(file, note.as_bytes()).map_err(|error| {
            Failure::new(Exit::Failed, "the checkpoint was not kept").caused_by(&error)
        })?;
    }
    report(verdict)
}

/// The file of the checkpoint that the log must continue. One that is to be replaced was kept for that too: a log that
/// was truncated meanwhile must not take it away.
fn kept_file(args: &Verify) -> Result<Option<&Path>, Failure> {
    let replaced = args
        .save
        .as_deref()
        .filter(|file| fs::symlink_metadata(file).is_ok());
    match (args.at_least.as_deref(), replaced) {
        (Some(kept), Some(replaced)) if kept != replaced => Err(Failure::usage(WHAT)
            .because(format!("{} is there already, and is replaced only where the log continues it", replaced.display()))
            .mend("leave --at-least out, name the same file twice, or --save to a file that is not there")),
        (Some(kept), _) => Ok(Some(kept)),
        (None, replaced) => Ok(replaced),
    }
}

fn report(verdict: Verdict) -> Result<Report, Failure> {
    let clean = verdict.findings.is_empty();
    let size = verdict
        .checkpoint
        .as_ref()
        .map_or(0, |(checkpoint, _)| checkpoint.size);
    let lines = if clean {
        vec![format!("verified: {size} records, each as it was signed")]
    } else {
        let lines = verdict
            .findings
            .iter()
            .map(|finding| match (&finding.file, finding.offset) {
                (Some(file), Some(offset)) => format!(
                    "found: {file}, byte {offset}, record {}: {}",
                    finding.index, finding.finding
                ),
                _ => format!("found: record {}: {}", finding.index, finding.finding),
            });
        let verified = format!("verified up to record {size} of {}", verdict.leaves);
        lines.chain([verified]).collect()
    };
    let data = VerifyJson {
        clean,
        vkey: verdict.verifier.vkey(),
        leaves: verdict.leaves,
        checkpoint: verdict.checkpoint.map(|(checkpoint, _)| CheckpointJson {
            size: checkpoint.size,
            root: hex(&checkpoint.root),
        }),
        findings: verdict.findings,
    };
    let report = Report::new(&data, Vec::new(), Human::Lines(lines))?;
    Ok(if clean { report } else { report.found() })
}

/// Reads the segments of a folder in the order of their names, which is that of their first leaves.
fn offline(dir: &Path, verifier: &Verifier, kept: Option<&str>) -> Result<Verdict, Failure> {
    let files = segments(dir)?;
    let mut told = Vec::new();
    for file in &files {
        let bytes = read_limited(file, SEGMENT_LIMIT_BYTES)?;
        told.extend(LogKeys::told_in(&bytes, verifier.name()));
    }
    let no_log = |error: CheckpointError| Failure::usage(WHAT).caused_by(&error);
    let keys = LogKeys::follow(verifier.clone(), &told).map_err(no_log)?;
    let note = kept;
    let (kept, mut findings) = open_kept(kept, &keys)?;
    let mut audit = Audit::new(&keys, kept).map_err(no_log)?;
    let mut notes = Vec::new();
    for file in &files {
        let bytes = read_limited(file, SEGMENT_LIMIT_BYTES)?;
        audit.segment(&bytes);
        notes.extend(last_note(&bytes));
    }
    let LogReport {
        leaves,
        verified,
        signed_by,
        findings: found,
        ..
    } = audit.finish();
    findings.extend(not_gone_on(&keys, note, signed_by.as_ref()));
    findings.extend(found.into_iter().map(|finding| {
        FindingJson {
            file: files
                .get(finding.segment)
                .map(|file| file.display().to_string()),
            offset: Some(finding.offset),
            index: finding.index,
            finding: finding.found.to_string(),
        }
    }));
    let signed = |note: &String| keys.open(note).ok() == verified;
    let checkpoint =
        verified.and_then(|checkpoint| Some((checkpoint, notes.into_iter().rev().find(signed)?)));
    Ok(Verdict {
        verifier: verifier.clone(),
        leaves,
        checkpoint,
        findings,
    })
}

fn segments(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unread = |error: &std::io::Error| {
        Failure::new(Exit::Failed, format!("{} was not read", dir.display())).caused_by(error)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| unread(&error))? {
        let path = entry.map_err(|error| unread(&error))?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            files.push(path);
        }
    }
    files.sort_unstable();
    if files.is_empty() {
        return Err(Failure::new(Exit::Precondition, WHAT)
            .because(format!("{} holds no segment (*.seg)", dir.display()))
            .mend("give a broker's audit folder, or a copy of it"));
    }
    Ok(files)
}

/// The text of a segment's last checkpoint.
fn last_note(segment: &[u8]) -> Option<String> {
    let notes = Records::new(segment).filter_map(|(_, record)| match record {
        Ok(Record::Checkpoint(note)) => Some(note),
        Ok(Record::Leaf(_)) | Err(_) => None,
    });
    String::from_utf8(notes.last()?.to_vec()).ok()
}

async fn online(
    session: &Session,
    pinned: Option<&Verifier>,
    kept: Option<&str>,
    shell: &Shell,
) -> Result<Verdict, Failure> {
    let newest: pb::LatestCheckpointResponse =
        session
            .read(
                WHAT,
                &pb::LatestCheckpointRequest {},
                |channel, request| async move {
                    AuditClient::new(channel).latest_checkpoint(request).await
                },
            )
            .await?;
    let own = Verifier::parse(&newest.vkey).map_err(|error| {
        Failure::new(Exit::Failed, WHAT).because(format!("the broker's key: {error}"))
    })?;
    let verifier = pinned.unwrap_or(&own).clone();
    let opened = if own.name() == verifier.name() {
        Checkpoint::open(&newest.checkpoint, &own)
    } else {
        Err(CheckpointError::Origin)
    };
    let signed = match opened {
        Ok(signed) => signed,
        Err(error) => {
            let not = format!(
                "the newest checkpoint is not signed by the log's key: {}",
                chain(&error)
            );
            return Ok(Verdict {
                verifier,
                leaves: 0,
                checkpoint: None,
                findings: vec![finding(0, not)],
            });
        }
    };
    let claimed = kept.map(Checkpoint::claimed).transpose();
    let mut tree = Recomputed::new(claimed.map_err(|error| unusable(&error))?);
    read_leaves(session, signed.size, &mut tree, shell).await?;
    let keys = LogKeys::follow(verifier.clone(), &tree.told)
        .map_err(|error| Failure::usage(WHAT).caused_by(&error))?;
    let note = kept;
    let (kept, mut findings) = open_kept(kept, &keys)?;
    findings.extend(not_gone_on(&keys, note, Some(&own)));
    if !keys.vouch_for(&own) {
        findings.push(finding(
            0,
            "the newest checkpoint is not signed by the log's key, nor by one that it endorsed, each the next"
                .to_owned(),
        ));
    }
    findings.extend(tree.findings(&signed, kept));
    let checkpoint = findings.is_empty().then_some((signed, newest.checkpoint));
    Ok(Verdict {
        verifier,
        leaves: tree.frontier.size(),
        checkpoint,
        findings,
    })
}

async fn read_leaves(
    session: &Session,
    size: u64,
    tree: &mut Recomputed,
    shell: &Shell,
) -> Result<(), Failure> {
    if size == 0 {
        return Ok(());
    }
    let request = pb::ReadLeavesRequest {
        first_index: 0,
        limit: size,
        follow: false,
        last: 0,
    };
    let mut leaves = Leaves::open(session, request, false).await?;
    let progress = shell.console.progress(size);
    while let Some(batch) = leaves.next().await? {
        for leaf in &batch {
            if tree.frontier.size() == size {
                return Ok(());
            }
            tree.append(leaf);
        }
        progress.set_position(tree.frontier.size());
    }
    Ok(())
}

/// The tree over the leaves as they were sent.
struct Recomputed {
    frontier: Frontier,
    kept_size: Option<u64>,
    kept_root: Option<Hash>,
    /// What its leaves tell of the keys that sign it.
    told: Vec<Succession>,
    malformed: Vec<FindingJson>,
}

impl Recomputed {
    fn new(kept: Option<Checkpoint>) -> Self {
        let mut tree = Self {
            frontier: Frontier::new(),
            kept_size: kept.map(|kept| kept.size),
            kept_root: None,
            told: Vec::new(),
            malformed: Vec::new(),
        };
        tree.meet_kept();
        tree
    }

    fn append(&mut self, leaf: &pb::AuditLeaf) {
        let index = self.frontier.size();
        if leaf.index != index {
            self.malformed.push(finding(
                index,
                format!("the broker sent record {} in its place", leaf.index),
            ));
        }
        match Leaf::parse(&leaf.body).map(|leaf| leaf.event) {
            Ok(Event::Succession(told)) => self.told.push(told),
            Ok(_) => {}
            Err(error) => self
                .malformed
                .push(finding(index, format!("the record is malformed: {error}"))),
        }
        self.frontier.append(leaf_hash(&leaf.body));
        self.meet_kept();
    }

    fn meet_kept(&mut self) {
        if self.kept_size == Some(self.frontier.size()) {
            self.kept_root = Some(self.frontier.root());
        }
    }

    fn findings(&mut self, signed: &Checkpoint, kept: Option<Checkpoint>) -> Vec<FindingJson> {
        let mut findings = std::mem::take(&mut self.malformed);
        let size = self.frontier.size();
        if size != signed.size {
            findings.push(finding(
                size,
                format!(
                    "{} records are signed, and the broker sent {size}",
                    signed.size
                ),
            ));
        } else if self.frontier.root() != signed.root {
            findings.push(finding(0, "the records are not those that were signed: one at least was edited, moved, added or taken out".to_owned()));
        }
        match (kept, self.kept_root) {
            (Some(kept), Some(root)) if root != kept.root => {
                findings.push(finding(0, format!("the first {} records are not those of the kept checkpoint: the log was rewritten", kept.size)));
            }
            (Some(kept), None) => {
                findings.push(finding(size, format!("the kept checkpoint has {} records, and the log has {size}: it was truncated", kept.size)));
            }
            (Some(_), Some(_)) | (None, _) => {}
        }
        findings
    }
}

/// Opens a kept checkpoint; one that the log's key has not signed is a finding: it, or the log, is another.
fn open_kept(
    note: Option<&str>,
    keys: &LogKeys,
) -> Result<(Option<Checkpoint>, Vec<FindingJson>), Failure> {
    let Some(note) = note else {
        return Ok((None, Vec::new()));
    };
    match keys.open(note) {
        Ok(kept) => Ok((Some(kept), Vec::new())),
        Err(error @ (CheckpointError::Malformed | CheckpointError::Note(NoteError::Malformed))) => {
            Err(unusable(&error))
        }
        Err(error) => Ok((
            None,
            vec![finding(
                0,
                format!(
                    "the kept checkpoint is not signed by this log's key: {}",
                    chain(&error)
                ),
            )],
        )),
    }
}

/// Whether the log was signed on with a key that does not follow from the one of the kept checkpoint.
fn not_gone_on(keys: &LogKeys, kept: Option<&str>, last: Option<&Verifier>) -> Option<FindingJson> {
    // One that is not signed by the log's keys is a finding already.
    let (kept, last) = kept.filter(|note| keys.open(note).is_ok()).zip(last)?;
    (!keys.go_on_from(kept, last)).then(|| {
        let what = "the log's last key does not follow from the one that signed the kept checkpoint: the log was rewritten";
        finding(0, what.to_owned())
    })
}

fn unusable(error: &CheckpointError) -> Failure {
    Failure::new(Exit::Failed, "the kept checkpoint cannot be used").caused_by(error)
}

fn read_note(file: &Path) -> Result<String, Failure> {
    let bytes = read_limited(file, NOTE_LIMIT_BYTES)?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(Exit::Failed, format!("{} is no checkpoint", file.display()))
            .because("it is not UTF-8")
    })
}

fn read_limited(file: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    read_public(file, limit).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} was not read", file.display())).caused_by(&error)
    })
}

fn finding(index: u64, finding: String) -> FindingJson {
    FindingJson {
        file: None,
        offset: None,
        index,
        finding,
    }
}

#[cfg(test)]
mod tests;
