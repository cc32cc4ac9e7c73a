//! A new incarnation of a store: after a restore, and after a rollback that an operator accepts.
//!
//! Its number is above every one that is known here, so that nodes take it up once and never go back. It begins with one
//! commit, then its copy is beside the store, then alarm and anchor are on record; cut short, it is begun again with a
//! greater number.
//!
//! That commit takes away what is good for one use: a join token, a code or an approval that was used after this state was
//! kept would be unused again.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use attache_envelope::{
    SystemRandom,
    id::{BackupId, BootId, ChainId, StoreId},
    lp::Lp,
};
use attache_mtls::spiffe::BrokerId;
use attache_translog::{Alarm, Anchor, AnchorNote};
use sha2::{Digest, Sha256};

use super::{meta, open, serve::open_log};
use crate::{
    audit::{AuditLog, Recovered},
    config::Config,
    identity::Readmission,
    keys::Keys,
    store::{
        Applied, BrokerLedger, Change, Ledger, LedgerOptions, RedbStore, Store, Table,
        anchor_beside, open_tip,
    },
};

/// What is in these is good for one use.
const FOR_ONE_USE: [Table; 3] = [Table::Approval, Table::JoinToken, Table::OperatorCode];
/// Rows read at once.
const PAGE: usize = 512;

/// Why an incarnation began.
pub(super) enum Cause {
    /// The store was made from this backup.
    Backup(BackupId),
    /// An operator accepted an older store.
    Rollback,
}

impl Cause {
    /// As its row has it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Backup(backup) => format!("backup {backup}"),
            Self::Rollback => "rollback".to_owned(),
        }
    }
}

/// What the anchor's copy in the store's folder knows.
pub(super) fn of_note(config: &Config, keys: &Keys) -> Result<Option<AnchorNote>> {
    let path = config.store.anchor();
    match anchor_beside(&path, keys).with_context(|| path.display().to_string())? {
        None => Ok(None),
        Some(Ok(note)) => Ok(Some(note)),
        Some(Err(_)) => bail!(
            "{} is of another store, damaged, or signed by a key that came later: it does not verify under this store's keys; move it away",
            path.display()
        ),
    }
}

/// The chain of a log that begins with an incarnation, since the one before is lost: the first 16 bytes of
/// SHA-256(LP("attache/chain/1", store, broker id, incarnation)).
pub(super) fn chain(store: StoreId, broker: &BrokerId, incarnation: u32) -> ChainId {
    let lp = Lp::labelled("attache/chain/1")
        .id(store)
        .str(&broker.to_string())
        .u32(incarnation);
    super::first_half(&Sha256::digest(lp.as_bytes()).into())
}

/// Commits the first change of an incarnation, and in it the end of all that is good for one use; then opens the ledger,
/// which writes the anchor's copy.
pub(super) async fn begin(
    config: &Config,
    (store, keys): (Arc<RedbStore>, &Keys),
    log: &AuditLog,
    recovered: &Recovered,
    incarnation: u32,
    mut change: Change,
) -> Result<(BrokerLedger, Applied)> {
    Readmission::end(&mut change);
    for table in FOR_ONE_USE {
        take_all(store.as_ref(), table, &mut change).await?;
    }
    let head = log.head();
    let head = (head.size > 0).then(|| (*log.chain(), head.size, head.root));
    let applied =
        Ledger::begin_incarnation(store.as_ref(), keys, incarnation, &change, head).await?;
    let head_of = log.clone();
    let options = LedgerOptions {
        anchor_note: config.store.anchor(),
        audit_head: Box::new(move || {
            let head = head_of.head();
            Some((*head_of.chain(), head.size, head.root))
        }),
        audited: recovered.audited,
    };
    Ok((Ledger::open(store, keys, options).await?, applied))
}

/// Adds to a change that a table has no row any more.
async fn take_all<S: Store>(store: &S, table: Table, change: &mut Change) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(table, b"", after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        let keys = page.into_iter().map(|(key, _)| (table, key));
        change.deletes.extend(keys);
    }
}

/// Puts on record where it begins. The alarm is there already.
pub(super) async fn on_record(log: &AuditLog, incarnation: u32, applied: Applied) -> Result<()> {
    let anchor = Anchor {
        incarnation,
        seq: applied.seq,
        t: applied.anchor_t,
    };
    let _receipt = log.append(anchor).await?;
    Ok(())
}

/// Accepts a store that is older than what is known of it: `serve --accept-rollback-to SEQ`. The alarm is on record before
/// anything is written.
///
/// # Errors
/// When the store does not stand at that sequence, or nothing here knows a newer one.
pub(super) async fn accept_rollback(config: &Config, seq: u64) -> Result<()> {
    let arena = open::arena(config)?;
    let (store, keys) = open::store(config, &arena).await?;
    let tip = open_tip(&keys.row_codec(), store.as_ref()).await?;
    let boot = BootId::random(&SystemRandom)?;
    let (log, recovered) = open_log(config, store.as_ref(), &keys, boot).await?;
    let order = |anchor: &AnchorNote| (anchor.incarnation, anchor.seq);
    let known = [of_note(config, &keys)?, recovered.audited];
    let known = known.into_iter().flatten().max_by_key(order);
    let stands = (tip.anchor.incarnation, tip.anchor.seq);
    let Some(known) = known.filter(|known| order(known) > stands) else {
        bail!(
            "the store is not older than anything that is known of it here: start it without --accept-rollback-to"
        );
    };
    if tip.anchor.seq != seq {
        bail!(
            "the store stands at sequence {}, and --accept-rollback-to names {seq}: look at what is lost, and name the one \
             where it stands",
            tip.anchor.seq
        );
    }
    let next = known.incarnation.max(tip.anchor.incarnation);
    let next = next
        .checked_add(1)
        .context("there are no more incarnations")?;
    let reason = format!(
        "a store of sequence {seq} of incarnation {} is accepted although sequence {} of incarnation {} is known: incarnation \
         {next} begins, and what was committed between is gone",
        tip.anchor.incarnation, known.seq, known.incarnation
    );
    let alarm = Alarm {
        identity: config.id.to_string(),
        reason,
    };
    let _receipt = log.append(alarm).await?;
    let mut change = Change::default();
    meta::put_incarnation(&mut change, next, log.clock().now_ms(), &Cause::Rollback);
    let begun = begin(config, (store, &keys), &log, &recovered, next, change);
    let (ledger, applied) = begun.await?;
    ledger.close().await;
    on_record(&log, next, applied).await?;
    log.close().await;
    Ok(())
}
