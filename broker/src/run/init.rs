//! `attache-broker init`: a new store with its keys, its CA and its guard rails.

use std::{
    io::{ErrorKind, Write},
    path::Path,
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

use super::{
    beginning::{Beginning, private_folder},
    block_on, chain_id, meta, server_certificate,
};
use crate::{
    audit::{AuditLog, Clock, LogOptions},
    config::Config,
    identity::{Authority, CaCertificates},
    keys::{CreateError, Keys},
    metrics::ApiMetrics,
    policy::{Condition, GuardrailRecord, GuardrailSpec},
    registry::{ClusterRecord, ClusterSource, KubernetesRecord, adopt},
    store::{Applied, Change, FIRST_INCARNATION, Ledger, LedgerOptions, RedbStore, Table},
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
    let slot_file = slot_file(config)?;
    let key_file = KeyFile::found(slot_file, if_empty);
    let mut beginning = Beginning::take(config)?;
    if key_file == KeyFile::New && slot_file.exists() {
        bail!(
            "the key file {} is there already: it may open another store; name another one in keys.slot_file, or make the \
             new store under this one with: init --if-empty",
            slot_file.display()
        );
    }
    let arena = super::open::arena(config)?;
    let Made { keys, vkey, ca } = block_on(async {
        // Nothing is made for a cluster that could not be served.
        let cluster = match cluster {
            Some(cluster) => Some(cluster.adopted(config).await?),
            None => None,
        };
        make(config, key_file, cluster, &arena, &mut beginning).await
    })?;
    beginning.finish()?;
    let mut out = std::io::stdout();
    writeln!(out, "made store {}", keys.store_id())?;
    writeln!(
        out,
        "  key file       {}   (keep a copy apart from the store: without it nothing opens)",
        slot_file.display()
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
    fn found(slot_file: &Path, if_empty: bool) -> Self {
        if if_empty && slot_file.exists() {
            Self::Given
        } else {
            Self::New
        }
    }
}

/// The key file of the first slot.
fn slot_file(config: &Config) -> Result<&Path> {
    config.keys.key_file().context(
        "a new store is made under a key file: name the one to make in keys.slot_file; other slots are added to it later",
    )
}

/// What was made, for those who need to know it.
struct Made {
    keys: Arc<Keys>,
    vkey: String,
    ca: SpkiSha256,
}

async fn make(
    config: &Config,
    key_file: KeyFile,
    cluster: Option<(ClusterName, ClusterRecord)>,
    arena: &Arena,
    beginning: &mut Beginning<'_>,
) -> Result<Made> {
    for folder in [&config.store.dir.join("tls"), &config.audit_dir] {
        private_folder(folder)?;
    }
    let store_id = StoreId::random(&SystemRandom)?;
    let slot_file = slot_file(config)?;
    let (keys, mut change) = match key_file {
        KeyFile::Given => Keys::create_under(arena, store_id, slot_file)?,
        KeyFile::New => {
            let created = Keys::create(arena, store_id, slot_file);
            if !matches!(&created, Err(CreateError::SlotFile { source, .. }) if source.kind() == ErrorKind::AlreadyExists)
            {
                beginning.made_slot_file(slot_file);
            }
            created?
        }
    };
    let keys = Arc::new(keys);
    beginning.begins_log(chain_id(store_id, &config.id))?;
    let store = RedbStore::create(&beginning.store(), store_id)?;
    let now = Timestamp::now();
    let name = format!("Attaché CA {store_id}");
    let ca = CertificateAuthority::create(
        keys.ca_key().seed(),
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
    let certificates = CaCertificates {
        active: ca.certificate().clone(),
        before: None,
    };
    let authority = Authority::load(certificates, Arc::clone(&keys))?;
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
    let (log, _recovered) = AuditLog::open(options, Arc::clone(keys))?;
    let _receipt = log
        .append(Anchor {
            incarnation: FIRST_INCARNATION,
            seq: applied.seq,
            t: applied.anchor_t,
        })
        .await?;
    let vkey = log.head().vkey.to_string();
    log.close().await;
    Ok(vkey)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A configuration in a folder.
    fn config(dir: &Path) -> Config {
        let text = format!(
            "name = \"b\"\ntrust_domain = \"example.internal\"\n[store]\ndir = \"{0}/store\"\n[keys]\nslot_file = \"{0}/slot.key\"\n[audit]\ndir = \"{0}/audit\"\n",
            dir.display()
        );
        fs::write(dir.join("broker.toml"), text).unwrap();
        Config::read(&dir.join("broker.toml")).unwrap()
    }

    #[test]
    fn a_second_init_at_the_same_time_is_told_so_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let first = Beginning::take(&config).unwrap();
        fs::write(first.store(), b"theirs").unwrap();
        let refused = init(&config, true, None).unwrap_err().to_string();
        assert!(refused.contains("another attache-broker init"), "{refused}");
        assert_eq!(fs::read(first.store()).unwrap(), b"theirs");
        assert!(!slot_file(&config).unwrap().exists());
    }

    #[test]
    fn an_init_that_comes_second_to_the_key_file_leaves_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let theirs = slot_file(&config).unwrap();
        let mut beginning = Beginning::take(&config).unwrap();
        fs::write(theirs, b"theirs").unwrap();
        let arena = Arena::new_plain().unwrap();
        let made = make(&config, KeyFile::New, None, &arena, &mut beginning);
        block_on(made).map(drop).unwrap_err();
        let begun = beginning.store();
        drop(beginning);
        assert_eq!(fs::read(theirs).unwrap(), b"theirs");
        assert!(!begun.exists() && !config.store.store().exists());
    }

    #[test]
    fn what_lies_in_the_audit_folder_is_taken_away_only_with_a_store_that_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::create_dir(&config.audit_dir).unwrap();
        let segment = config.audit_dir.join("00000000000000000000.seg");
        let other = config.audit_dir.join("notes");
        for file in [&segment, &other] {
            fs::write(file, b"").unwrap();
        }
        let refused = || init(&config, true, None).unwrap_err().to_string();
        assert!(refused().contains("is not empty") && segment.exists());
        let begun = |chain: u8| {
            fs::write(config.store.beginning(), b"").unwrap();
            let note = format!("init {}\n", hex::encode([chain; 16]));
            fs::write(config.store.begun_log(), note).unwrap();
        };
        // One that somebody put there meanwhile.
        let header = attache_translog::Header {
            store: [1; 16],
            chain: [7; 16],
            first_index: 0,
        };
        fs::write(&segment, header.encode()).unwrap();
        begun(8);
        assert!(refused().contains("is not empty") && segment.exists());
        assert!(!config.store.beginning().exists() && !config.store.begun_log().exists());
        begun(7);
        assert!(refused().contains("is not empty"));
        assert!(other.exists() && !segment.exists());
        fs::remove_file(other).unwrap();
        init(&config, true, None).unwrap();
        assert!(!config.store.beginning().exists());
        assert!(config.store.store().exists());
    }
}
