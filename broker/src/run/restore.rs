//! `attache-broker restore`: the store of a backup, as a new incarnation of it; and the drill, which changes nothing.
//!
//! ```text
//! backup -> checked whole (backup::read) -> log: that of the store, which must have all that the backup knows; or a new chain
//!   -> incarnation above every one that is known here: one commit -> anchor's copy, alarm, anchor on record -> the store's name
//! ```
//! Until the store has its name there is none, and the same command can be run again. What was committed after the backup is
//! gone, and so are bans and grants of that time: the audit log has what they were.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use attache_arena::Arena;
use attache_envelope::{
    SystemRandom,
    body::KekBody,
    id::{BootId, ChainId},
    slot::Slot,
};
use attache_translog::{Alarm, AnchorNote};

use super::{
    AuditSeed,
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
    store::{Change, Rows, Table},
};

/// What a drill prints when it found something.
const FOUND: u8 = 8;
/// Findings that are printed.
const SHOWN: usize = 20;
/// Rows read at once.
const PAGE: usize = 512;

/// Makes the store of a backup in `store.dir`, as a new incarnation. `new_log`: the store's audit log is lost, and another
/// chain begins.
///
/// # Errors
/// When a store is there, the backup is not whole or does not open, or the log does not have what the backup knows; what this
/// call made is taken away again, but for the alarm on record and the number of the incarnation, which is not used twice.
pub fn restore(config: &Config, file: &Path, new_log: bool) -> Result<ExitCode> {
    let beginning = Beginning::restore(config, new_log)?;
    let arena = open::arena(config)?;
    let made = block_on(make(config, file, new_log, &arena, &beginning))?;
    beginning.finish()?;
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

/// Opens and checks a backup in a folder of its own, says what it holds, and takes the folder away: 0, or 8 when something
/// was found.
///
/// # Errors
/// When it cannot be read, is not whole, or does not open.
pub fn drill(config: &Config, file: &Path) -> Result<ExitCode> {
    let scratch = Scratch::make()?;
    let arena = open::arena(config)?;
    block_on(async {
        let into = scratch.0.join("store.redb");
        let opened = Opened::open(file, &into, &arena, &config.keys.openers).await?;
        tell(&opened).await?;
        Ok(if opened.report.findings.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FOUND)
        })
    })
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
    private_folder(&config.store.dir.join("tls"))?;
    let authority = Authority::load(meta::ca(&ledger).await?, Arc::clone(&opened.keys))?;
    server_certificate::write_bundle(config, &authority)?;
    ledger.close().await;
    incarnation::on_record(&log, next, applied).await?;
    let vkey = log.vkey().to_owned();
    log.close().await;
    Ok(Made {
        opened,
        incarnation: next,
        lacking,
        vkey,
    })
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
    let opened = AuditLog::open(options, AuditSeed(Arc::clone(keys)));
    opened.map_err(|error| {
        let other = matches!(
            error,
            audit::OpenError::Behind { .. }
                | audit::OpenError::Forked { .. }
                | audit::OpenError::OtherLog { .. }
        );
        let error = anyhow::Error::from(error);
        if !other {
            return error;
        }
        error.context(format!(
            "the log in {} (audit.dir) does not have the {} records that the backup knows: put the store's own log back, or, \
             where that is lost, move this one away and begin another one with --new-log",
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

/// What a backup holds, line by line.
async fn tell(opened: &Opened) -> Result<()> {
    let mut out = std::io::stdout();
    let (head, report) = (&opened.sealed.head, &opened.report);
    for finding in report.findings.iter().take(SHOWN) {
        writeln!(
            out,
            "found: {} {}: {}",
            finding.table, finding.key, finding.problem
        )?;
    }
    writeln!(out, "backup {} of store {}", head.backup, head.store)?;
    writeln!(
        out,
        "  state          sequence {} of incarnation {}",
        head.seq, head.incarnation
    )?;
    let created = i64::try_from(head.created_ms).unwrap_or(i64::MAX);
    let created = jiff::Timestamp::from_millisecond(created).context("when it was made")?;
    writeln!(out, "  made           {created}")?;
    writeln!(
        out,
        "  rows           {} checked, and {} values: {} findings",
        report.rows,
        report.payloads,
        report.findings.len()
    )?;
    for slot in slots(opened).await? {
        let by = if slot.identity.slot == opened.keys.opened_by() {
            ", which opened it"
        } else {
            ""
        };
        let (name, kind) = (&slot.about.name, slot.identity.kind.name());
        writeln!(out, "  slot           {name} ({kind}){by}")?;
    }
    for (keyspace, held) in keyspaces(opened).await? {
        writeln!(
            out,
            "  keyspace       {keyspace}: {} secrets; keys: {}",
            held.secrets,
            held.keys.join(", ")
        )?;
    }
    writeln!(out, "nothing was changed")?;
    Ok(())
}

/// What a keyspace has.
#[derive(Default)]
struct Held {
    secrets: u64,
    keys: Vec<String>,
}

async fn keyspaces(opened: &Opened) -> Result<BTreeMap<String, Held>> {
    let mut keyspaces: BTreeMap<String, Held> = BTreeMap::new();
    for (key, _) in rows(opened, Table::Keyspace).await? {
        keyspaces
            .entry(String::from_utf8_lossy(&key).into_owned())
            .or_default();
    }
    for (key, _) in rows(opened, Table::Head).await? {
        let path = String::from_utf8_lossy(&key).into_owned();
        let keyspace = path.split('/').next().unwrap_or_default();
        keyspaces.entry(keyspace.to_owned()).or_default().secrets += 1;
    }
    for (key, body) in rows(opened, Table::Kek).await? {
        let Some((name, epoch)) = key.split_last_chunk::<4>() else {
            continue;
        };
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
        let kek = KekBody::decode(&body);
        let state = kek.map_or("unreadable", |kek| kek.state.phase().name());
        let key = format!("epoch {} {state}", u32::from_be_bytes(*epoch));
        keyspaces.entry(name).or_default().keys.push(key);
    }
    Ok(keyspaces)
}

async fn slots(opened: &Opened) -> Result<Vec<Slot>> {
    let rows = rows(opened, Table::Slot).await?;
    let slots = rows.iter().filter_map(|(_, body)| Slot::decode(body).ok());
    Ok(slots.collect())
}

/// The rows of a table with their bodies; those that do not verify are among the findings.
async fn rows(opened: &Opened, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let codec = opened.keys.row_codec();
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = opened
            .store
            .scan(table, b"", after.as_deref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else {
            return Ok(all);
        };
        after = Some(last.clone());
        for (key, stored) in page {
            if let Ok(row) = codec.verify(table, &key, &stored) {
                all.push((key, row.into_row().body.to_vec()));
            }
        }
    }
}

/// A folder of this drill alone, taken away with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let name = format!("attache-drill-{}", BootId::random(&SystemRandom)?);
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| {
                format!(
                    "cannot make the folder {} (TMPDIR names another place)",
                    path.display()
                )
            })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the drill's folder is left");
        }
    }
}
