//! `attache-broker init`: a new store with its keys, its CA and its guard rails.

use std::{
    fs::{self, DirBuilder},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use attache_arena::Arena;
use attache_envelope::{
    SystemRandom,
    id::{BootId, StoreId},
};
use attache_mtls::{
    ca::{CA_VALIDITY, CertificateAuthority},
    identity::SpkiSha256,
};
use attache_translog::Anchor;
use jiff::Timestamp;

use super::{AuditSeed, block_on, chain_id, meta, server_certificate};
use crate::{
    audit::{AuditLog, Clock, LogOptions},
    config::Config,
    identity::Authority,
    keys::Keys,
    policy::{Condition, GuardrailRecord, GuardrailSpec},
    store::{Applied, Change, INCARNATION, Ledger, LedgerOptions, RedbStore, Table},
};

/// Makes everything that `serve` needs, and says what it made.
///
/// # Errors
/// When anything is there already, or cannot be made; what this call made is taken away again.
pub fn init(config: &Config) -> Result<ExitCode> {
    refuse_existing(config)?;
    let arena = super::open::arena(config)?;
    let slot_was_there = config.keys.slot_file.exists();
    let made = block_on(make(config, &arena));
    if made.is_err() && !slot_was_there {
        // A cut-short init leaves no half of a store behind: the next one starts anew.
        let _ = fs::remove_file(&config.keys.slot_file);
        let _ = fs::remove_file(config.store.store());
        let _ = fs::remove_file(config.store.anchor());
        // The folder was empty: what is in it is this call's.
        for entry in fs::read_dir(&config.audit_dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    let Made { keys, vkey, ca } = made?;
    let mut out = std::io::stdout();
    writeln!(out, "made store {}", keys.store_id())?;
    writeln!(
        out,
        "  key file       {}   (keep a copy apart from the store: without it nothing opens)",
        config.keys.slot_file.display()
    )?;
    writeln!(out, "  store          {}", config.store.store().display())?;
    writeln!(
        out,
        "  trust bundle   {}   (hand it to operators)",
        config.store.trust_bundle().display()
    )?;
    writeln!(
        out,
        "  CA key         SHA-256 {ca}   (operators compare it when they sign in)"
    )?;
    writeln!(
        out,
        "  audit key      {vkey}   (keep it elsewhere: audits are verified with it)"
    )?;
    writeln!(
        out,
        "  guard rails    {}",
        Condition::ALL.map(Condition::word).join(", ")
    )?;
    writeln!(
        out,
        "next: attache-broker serve --config FILE, then attache login --new NAME"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_existing(config: &Config) -> Result<()> {
    let store = config.store.store();
    if store.exists() {
        bail!(
            "{} is there already; init makes new stores only",
            store.display()
        );
    }
    if config.keys.slot_file.exists() {
        bail!(
            "the key file {} is there already: it may open another store; name another one in keys.slot_file",
            config.keys.slot_file.display()
        );
    }
    let log_is_there =
        fs::read_dir(&config.audit_dir).is_ok_and(|mut entries| entries.next().is_some());
    if log_is_there {
        bail!(
            "the audit folder {} is not empty; a new store begins a new log",
            config.audit_dir.display()
        );
    }
    Ok(())
}

/// What was made, for those who need to know it.
struct Made {
    keys: Arc<Keys>,
    vkey: String,
    ca: SpkiSha256,
}

async fn make(config: &Config, arena: &Arena) -> Result<Made> {
    for folder in [
        &config.store.dir,
        &config.store.dir.join("tls"),
        &config.audit_dir,
    ] {
        private_folder(folder)?;
    }
    let store_id = StoreId::random(&SystemRandom)?;
    let (keys, mut change) = Keys::create(arena, store_id, &config.keys.slot_file)?;
    let keys = Arc::new(keys);
    let store = RedbStore::create(&config.store.store(), store_id)?;
    let now = Timestamp::now();
    let name = format!("Attaché CA {store_id}");
    let ca = CertificateAuthority::create(
        keys.ca_seed(),
        config.id.trust_domain(),
        &name,
        CA_VALIDITY,
        now,
    )?;
    meta::put_ca(&mut change, ca.certificate());
    guard_rails(config, &mut change, now)?;
    let applied = Ledger::initialise(&store, &keys, &change).await?;
    write_anchor_copy(config, Arc::new(store), &keys).await?;
    let authority = Authority::load(ca.certificate().clone(), Arc::clone(&keys))?;
    server_certificate::write_bundle(config, &authority)?;
    server_certificate::issue(config, &authority, now)?;
    let vkey = begin_log(config, &keys, applied).await?;
    Ok(Made {
        keys,
        vkey,
        ca: authority.pin(),
    })
}

/// The guard rails that every grant is under from the beginning.
fn guard_rails(config: &Config, change: &mut Change, now: Timestamp) -> Result<()> {
    for condition in Condition::ALL {
        let record = GuardrailRecord {
            spec: GuardrailSpec {
                name: condition.word().parse()?,
                condition,
            },
            created_ms: crate::identity::ms(now),
            created_by: config.id.to_string(),
        };
        change.require_absent(Table::Policy, condition.word());
        change.put(Table::Policy, condition.word(), record.encode());
    }
    Ok(())
}

/// Opens the new ledger once, which writes the local copy of its anchor: the first start has something to compare with.
async fn write_anchor_copy(config: &Config, store: Arc<RedbStore>, keys: &Keys) -> Result<()> {
    let options = LedgerOptions {
        anchor_note: config.store.anchor(),
        audit_head: Box::new(|| None),
        audited: None,
    };
    Ledger::open(store, keys, options).await?.close().await;
    Ok(())
}

/// Begins the audit log with the store's first anchor.
async fn begin_log(config: &Config, keys: &Arc<Keys>, applied: Applied) -> Result<String> {
    let options = LogOptions {
        dir: config.audit_dir.clone(),
        store: keys.store_id(),
        chain: chain_id(keys.store_id(), &config.id),
        boot: BootId::random(&SystemRandom)?,
        anchored: None,
        segment_bytes: LogOptions::SEGMENT_BYTES,
        clock: Clock::system(),
    };
    let (log, _recovered) = AuditLog::open(options, AuditSeed(Arc::clone(keys)))?;
    let _receipt = log
        .append(Anchor {
            incarnation: INCARNATION,
            seq: applied.seq,
            t: applied.anchor_t,
        })
        .await?;
    let vkey = log.vkey().to_owned();
    log.close().await;
    Ok(vkey)
}

fn private_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}
