//! `attache-broker restore`: the store of a backup, as a new incarnation of it.
//!
//! ```text
//! backup -> checked whole (backup::read) -> log: that of the store, which must have all that the backup knows; or a new chain
//!   -> incarnation above every one that is known here: one commit -> anchor's copy, alarm, anchor on record -> the store's name
//! ```
//! Until the store has its name there is none, and the same command can be run again. What was committed after the backup is
//! gone, and so are bans and grants of that time: the audit log has what they were.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use attache_arena::Arena;
use attache_envelope::{
    SystemRandom,
    id::{BootId, ChainId},
};
use attache_mtls::public_file::{read_public, write_public};
use attache_translog::{Alarm, AnchorNote};

use super::{
    beginning::{Beginning, private_folder},
    block_on, chain_id,
    incarnation::{self, Cause},
    meta, open, server_certificate,
};
use crate::{
    audit::{self, AuditLog, Clock, LogOptions, Recovered},
    backup::{BackupRecord, Opened},
    config::Config,
    identity::Authority,
    store::{BrokerLedger, Change},
};

/// Findings that are printed.
pub(super) const SHOWN: usize = 20;
/// The anchor's copy is never larger, in bytes.
const ANCHOR_MAX: u64 = 4096;

/// Makes the store of a backup in `store.dir`, as a new incarnation. `new_log`: the store's audit log is lost, and another
/// chain begins.
///
/// # Errors
/// When a store is there, the backup is not whole or does not open, or the log does not have what the backup knows; what this
/// call made is taken away again, but for the alarm on record and the number of the incarnation, which is not used twice.
pub fn restore(config: &Config, file: &Path, new_log: bool) -> Result<ExitCode> {
    let beginning = Beginning::restore(config, new_log)?;
    let arena = open::arena(config)?;
    let copy = AnchorBefore::of(config)?;
    let made = block_on(make(config, file, new_log, &arena, &beginning))?;
    beginning.finish()?;
    copy.replaced();
    let mut out = std::io::stdout();
    let head = &made.opened.sealed.head;
    writeln!(
        out,
        "restored store {} from backup {}",
        head.store, head.backup
    )?;
    writeln!(
        out,
        "  state          sequence {} of incarnation {}",
        head.seq, head.incarnation
    )?;
    writeln!(
        out,
        "  incarnation    {} begins, on record with an alarm",
        made.incarnation
    )?;
    writeln!(out, "  audit key      {}", made.vkey)?;
    if let Some(lacking) = &made.lacking {
        writeln!(out, "look into it: {lacking}")?;
    }
    writeln!(
        out,
        "what was committed after the backup is not in the store, and what it took away is back: look through bans, grants, \
         operators, slots, destroyed keys and secrets of that time; join tokens, operators' codes and approvals are all gone"
    )?;
    writeln!(out, "next: attache-broker serve --config FILE")?;
    Ok(ExitCode::SUCCESS)
}

/// The anchor's copy as it is before a restore, which comes back where that fails late: the store of before is held against
/// it, and it is not rolled back when it is put back.
struct AnchorBefore {
    path: PathBuf,
    bytes: Option<Vec<u8>>,
    replaced: bool,
}

impl AnchorBefore {
    fn of(config: &Config) -> Result<Self> {
        let path = config.store.anchor();
        let bytes = match read_public(&path, ANCHOR_MAX) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Ok(Self {
            path,
            bytes,
            replaced: false,
        })
    }

    /// The restored store is there: its copy is the one that counts.
    fn replaced(mut self) {
        self.replaced = true;
    }
}

impl Drop for AnchorBefore {
    fn drop(&mut self) {
        if self.replaced {
            return;
        }
        let back = match &self.bytes {
            Some(bytes) => write_public(&self.path, bytes, 0o644),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        };
        if let Err(error) = back {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the anchor's copy is that of the restore that failed");
        }
    }
}

/// What a restore came to.
struct Made {
    opened: Opened,
    incarnation: u32,
    /// What is known here of commits that the log does not have.
    lacking: Option<String>,
    vkey: String,
}

async fn make(
    config: &Config,
    file: &Path,
    new_log: bool,
    arena: &Arena,
    beginning: &Beginning<'_>,
) -> Result<Made> {
    let openers = &config.keys.openers;
    let opened = Opened::open(file, &beginning.store(), arena, openers).await?;
    refuse_damaged(&opened)?;
    let note = incarnation::of_note(config, &opened.keys)?;
    let noted = note.map_or(0, |note| note.incarnation);
    let before = opened.tip.anchor.incarnation.max(noted);
    let chain = own_chain(config, &opened, new_log, before).await?;
    if new_log {
        beginning.begins_log(chain)?;
    }
    let (log, recovered) = take_up_log(config, &opened, new_log, chain)?;
    let audited = recovered.audited.map(|known| known.incarnation);
    let known = before.max(audited.unwrap_or(0));
    let next = known
        .checked_add(1)
        .context("there are no more incarnations")?;
    let lacking = lacking(note.filter(|_| !new_log), recovered.audited);
    // On record before it is so: a restore that comes no further is run again, and begins a greater one.
    let alarm = Alarm {
        identity: config.id.to_string(),
        reason: told(&opened, next, &recovered, new_log, lacking.as_deref()),
    };
    let _receipt = log.append(alarm).await?;
    let head = opened.sealed.head;
    let mut change = Change::default();
    let mut record = BackupRecord::made(&opened.sealed, config.id.to_string());
    let now_ms = log.clock().now_ms();
    record.body.verified = Some((now_ms, config.id.to_string()));
    record.put(&mut change);
    meta::put_incarnation(&mut change, next, now_ms, &Cause::Backup(head.backup));
    if new_log {
        meta::put_chain(&mut change, &config.id, chain);
    }
    let store = Arc::clone(&opened.store);
    let begun = incarnation::begin(
        config,
        (store, &opened.keys),
        &log,
        &recovered,
        next,
        change,
    );
    let (ledger, applied) = begun.await?;
    let bundle = write_bundle(config, &ledger, &opened).await;
    // Closed in any case: after that nobody writes the anchor's copy any more.
    ledger.close().await;
    bundle?;
    incarnation::on_record(&log, next, applied).await?;
    let vkey = log.head().vkey.to_string();
    log.close().await;
    Ok(Made {
        opened,
        incarnation: next,
        lacking,
        vkey,
    })
}

/// Writes the CA certificates that callers must trust.
async fn write_bundle(config: &Config, ledger: &BrokerLedger, opened: &Opened) -> Result<()> {
    private_folder(&config.store.dir.join("tls"))?;
    let authority = Authority::load(meta::ca(ledger).await?, Arc::clone(&opened.keys))?;
    server_certificate::write_bundle(config, &authority)
}

/// What the anchor's copy on this machine knows and the log does not: its end was cut off, or is that of an older copy. A crash
/// leaves such a lead of a few commits at most.
fn lacking(note: Option<AnchorNote>, audited: Option<AnchorNote>) -> Option<String> {
    let order = |anchor: &AnchorNote| (anchor.incarnation, anchor.seq);
    let note = note.filter(|note| audited.is_none_or(|known| order(note) > order(&known)))?;
    Some(format!(
        "the anchor's copy beside the store knows sequence {} of incarnation {}, and the log ends before it",
        note.seq, note.incarnation
    ))
}

/// The alarm's text.
fn told(
    opened: &Opened,
    next: u32,
    recovered: &Recovered,
    new_log: bool,
    lacking: Option<&str>,
) -> String {
    let head = &opened.sealed.head;
    let mut told = format!(
        "the store is restored from backup {} of sequence {} of incarnation {}: incarnation {next} begins, and what was \
         committed after the backup is gone",
        head.backup, head.seq, head.incarnation
    );
    if let Some(lacking) = lacking {
        told += &format!("; {lacking}");
    }
    if let Some(known) = recovered.audited {
        told += &format!(
            "; this log knows sequence {} of incarnation {}",
            known.seq, known.incarnation
        );
    }
    if new_log {
        told += &format!(
            "; the log before is lost: it had {} records when the backup was made",
            head.audit.size
        );
    }
    told
}

/// The chain that the store's log goes on with: its own, or a new one, where that is lost.
async fn own_chain(
    config: &Config,
    opened: &Opened,
    new_log: bool,
    before: u32,
) -> Result<ChainId> {
    let head = &opened.sealed.head;
    if new_log {
        let next = before.saturating_add(1);
        return Ok(incarnation::chain(head.store, &config.id, next));
    }
    let chain = meta::chain(opened.store.as_ref(), &opened.keys, &config.id).await?;
    let chain = chain.unwrap_or_else(|| chain_id(head.store, &config.id));
    if chain != head.audit.chain {
        bail!(
            "the backup was made by a broker of another name than {} (name in the settings): its audit log is another one; \
             restore under that name, or, where its log is lost, begin another one with --new-log",
            config.id
        );
    }
    Ok(chain)
}

/// The log of the store, which must have all that the backup knows of it; or a new one.
fn take_up_log(
    config: &Config,
    opened: &Opened,
    new_log: bool,
    chain: ChainId,
) -> Result<(AuditLog, Recovered)> {
    let head = &opened.sealed.head;
    let keys = &opened.keys;
    // What the backup was signed with.
    let anchored = (!new_log).then_some((head.audit.size, head.audit.root));
    let options = LogOptions {
        dir: config.audit_dir.clone(),
        store: head.store,
        chain,
        boot: BootId::random(&SystemRandom)?,
        anchored,
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
    };
    private_folder(&config.audit_dir)?;
    let opened = AuditLog::open(options, Arc::clone(keys));
    opened.map_err(|error| {
        let other = matches!(
            error,
            audit::OpenError::Behind { .. }
                | audit::OpenError::Forked { .. }
                | audit::OpenError::OtherLog { .. }
                | audit::OpenError::Unverifiable { .. }
        );
        let error = anyhow::Error::from(error);
        if !other {
            return error;
        }
        error.context(format!(
            "the log in {} (audit.dir) does not have the {} records that the backup knows, as its keys have signed them: put \
             the store's own log back, or, where that is lost or was signed by a key that came after the backup, move this one \
             away and begin another one with --new-log",
            config.audit_dir.display(),
            head.audit.size
        ))
    })
}

fn refuse_damaged(opened: &Opened) -> Result<()> {
    let findings = &opened.report.findings;
    if findings.is_empty() {
        return Ok(());
    }
    let lines = findings.iter().take(SHOWN);
    let lines = lines.map(|it| format!("\n  {} {}: {}", it.table, it.key, it.problem));
    bail!(
        "the backup is whole, and {} of its rows were damaged before it was made; take an earlier one{}",
        findings.len(),
        lines.collect::<String>()
    )
}
