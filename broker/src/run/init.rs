//! `attache-broker init`: a new store with its keys, its CA and its guard rails.

use std::{
    fs::{self, DirBuilder},
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use attache_arena::Arena;
use attache_envelope::{
    SystemRandom,
    id::{BootId, StoreId},
    name::ClusterName,
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
    keys::{CreateError, Keys},
    metrics::ApiMetrics,
    policy::{Condition, GuardrailRecord, GuardrailSpec},
    registry::{ClusterRecord, ClusterSource, KubernetesRecord, adopt},
    store::{Applied, Change, INCARNATION, Ledger, LedgerOptions, RedbStore, StoreError, Table},
};

/// Makes everything that `serve` needs, and says what it made. With `if_empty` it leaves a store that is there alone, and
/// takes a key file that is there as the new store's. `cluster` is in the new store from the beginning.
///
/// # Errors
/// When anything else is there already, or cannot be made; what this call made is taken away again.
pub fn init(config: &Config, if_empty: bool, cluster: Option<NewCluster>) -> Result<ExitCode> {
    let store = config.store.store();
    if if_empty && store.exists() {
        writeln!(std::io::stdout(), "{} is there already", store.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let key_file = KeyFile::found(config, if_empty);
    refuse_existing(config, key_file)?;
    let arena = super::open::arena(config)?;
    let mut half = Half::default();
    let Made { keys, vkey, ca } = block_on(async {
        // Nothing is made for a cluster that could not be served.
        let cluster = match cluster {
            Some(cluster) => Some(cluster.adopted(config).await?),
            None => None,
        };
        make(config, key_file, cluster, &arena, &mut half).await
    })?;
    half.keep();
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

/// A cluster that a new store knows from its first commit.
pub struct NewCluster {
    /// Its name.
    pub name: ClusterName,
    /// The issuer of its tokens; empty: as its API server says.
    pub issuer: String,
    /// The audience of its tokens.
    pub audience: String,
    /// Where its API server is, and who enrolls its nodes.
    pub source: KubernetesRecord,
}

impl NewCluster {
    async fn adopted(self, config: &Config) -> Result<(ClusterName, ClusterRecord)> {
        let record = ClusterRecord {
            issuer: self.issuer,
            audience: self.audience,
            source: ClusterSource::Kubernetes(self.source.or_default()),
            created: Timestamp::now(),
            by: config.id.to_string(),
        };
        let adopted = adopt(&self.name, record, &ApiMetrics::default()).await;
        let record = adopted.with_context(|| format!("cluster {}", self.name))?;
        Ok((self.name, record))
    }
}

/// Where the key comes from that opens the new store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFile {
    /// It is made.
    New,
    /// It is there, and was made for this.
    Given,
}

impl KeyFile {
    fn found(config: &Config, if_empty: bool) -> Self {
        if if_empty && config.keys.slot_file.exists() {
            Self::Given
        } else {
            Self::New
        }
    }
}

fn refuse_existing(config: &Config, key_file: KeyFile) -> Result<()> {
    let store = config.store.store();
    if store.exists() {
        bail!(
            "{} is there already; init makes new stores only",
            store.display()
        );
    }
    if key_file == KeyFile::New && config.keys.slot_file.exists() {
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

/// What this call has made so far, and nothing else: a cut-short init leaves no half of a store behind, and another init
/// that runs at the same time keeps its own.
#[derive(Default)]
struct Half {
    files: Vec<PathBuf>,
    /// It was empty, and who made the store fills it.
    audit_dir: Option<PathBuf>,
}

impl Half {
    /// It is whole.
    fn keep(&mut self) {
        self.files.clear();
        self.audit_dir = None;
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let segments = self
            .audit_dir
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok());
        let segments = segments.flatten().flatten().map(|entry| entry.path());
        for path in segments.chain(self.files.drain(..)) {
            let _ = fs::remove_file(path);
        }
    }
}

async fn make(
    config: &Config,
    key_file: KeyFile,
    cluster: Option<(ClusterName, ClusterRecord)>,
    arena: &Arena,
    half: &mut Half,
) -> Result<Made> {
    for folder in [
        &config.store.dir,
        &config.store.dir.join("tls"),
        &config.audit_dir,
    ] {
        private_folder(folder)?;
    }
    let store_id = StoreId::random(&SystemRandom)?;
    let slot_file = &config.keys.slot_file;
    let (keys, mut change) = match key_file {
        KeyFile::Given => Keys::create_under(arena, store_id, slot_file)?,
        KeyFile::New => {
            let created = Keys::create(arena, store_id, slot_file);
            if !matches!(&created, Err(CreateError::SlotFile { source, .. }) if source.kind() == ErrorKind::AlreadyExists)
            {
                half.files.push(slot_file.clone());
            }
            created?
        }
    };
    let keys = Arc::new(keys);
    let created = RedbStore::create(&config.store.store(), store_id);
    if !matches!(&created, Err(StoreError::Exists { .. })) {
        half.files
            .extend([config.store.store(), config.store.anchor()]);
        half.audit_dir = Some(config.audit_dir.clone());
    }
    let store = created?;
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
    if let Some((name, record)) = cluster {
        change.put(Table::Cluster, name.as_str(), record.encode());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two at once both find nothing there; the one that comes second to the key file touches nothing of the first's.
    #[test]
    fn an_init_that_was_overtaken_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = format!(
            "name = \"b\"\ntrust_domain = \"example.internal\"\n[store]\ndir = \"{0}/store\"\n[keys]\nslot_file = \"{0}/slot.key\"\n[audit]\ndir = \"{0}/audit\"\n",
            dir.path().display()
        );
        fs::write(at("broker.toml"), text).unwrap();
        let config = Config::read(&at("broker.toml")).unwrap();
        fs::create_dir(at("store")).unwrap();
        let arena = Arena::new_plain().unwrap();
        for theirs in [config.keys.slot_file.clone(), config.store.store()] {
            fs::write(&theirs, b"theirs").unwrap();
            let mut half = Half::default();
            block_on(make(&config, KeyFile::New, None, &arena, &mut half))
                .map(drop)
                .unwrap_err();
            drop(half);
            assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
            fs::remove_file(&theirs).unwrap();
            assert!(!config.keys.slot_file.exists() && !config.store.store().exists());
        }
    }
}
