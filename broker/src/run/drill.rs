//! `attache-broker restore --drill`: opens and checks a backup, says what it holds, and changes nothing.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use attache_envelope::{SystemRandom, body::KekBody, id::BootId, slot::Slot};
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, open, restore::SHOWN};
use crate::{
    backup::Opened,
    config::Config,
    store::{Rows, Table},
};

/// What a drill prints when it found something.
const FOUND: u8 = 8;
/// Rows read at once.
const PAGE: usize = 512;

/// Opens and checks a backup in a folder of its own, says what it holds, and takes the folder away: 0, or 8 when something
/// was found.
///
/// # Errors
/// When it cannot be read, is not whole, or does not open.
pub fn drill(config: &Config, file: &Path) -> Result<ExitCode> {
    // Told to end, it takes its folder with it: signals are waited for before there is one.
    block_on(async {
        let on = |kind| signal(kind).context("cannot wait for signals");
        let (mut terminate, mut interrupt) =
            (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let scratch = Scratch::make()?;
        let arena = open::arena(config)?;
        let drilled = async {
            let into = scratch.0.join("store.redb");
            let opened = Opened::open(file, &into, &arena, &config.keys.openers).await?;
            tell(&opened).await?;
            Ok(if opened.report.findings.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FOUND)
            })
        };
        tokio::select! {
            done = drilled => done,
            _ = terminate.recv() => bail!("told to end; nothing was changed"),
            _ = interrupt.recv() => bail!("interrupted; nothing was changed"),
        }
    })
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
