//! What an operator should look at, each with what to do: of `attache status` and `attache doctor`.

use std::path::Path;

use attache_envelope::name::{KeyRef, Keyspace};
use attache_envelope::slot::{Slot, SlotKind};
use jiff::{SignedDuration, Timestamp};
use rustix::fs::statvfs;

use super::{overview::OverviewService, rpc_error::RpcError};
use crate::{
    backup::{BackupRecord, Records},
    causes::with_causes,
    keys::SlotSet,
    retagging::Progress,
};

/// A server certificate that ends sooner than this is a finding.
const CERTIFICATE_SOON: SignedDuration = SignedDuration::from_hours(24 * 14);
/// A CA that ends sooner than this is a finding.
const CA_SOON: SignedDuration = SignedDuration::from_hours(24 * 90);
/// An operator whose certificate renews itself no longer than this is one.
const SIGN_IN_SOON: SignedDuration = SignedDuration::from_hours(24);
/// So many days after it was made the newest backup that was found whole is old.
const BACKUP_DAYS: u64 = 30;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Records of backups read at once.
const PAGE: usize = 256;
/// How many nodes a finding names; the others are counted.
const NAMED: usize = 8;

impl OverviewService {
    /// What an operator should look at.
    pub(super) async fn findings(
        &self,
        certificate_ends: Timestamp,
        slots: &SlotSet,
    ) -> Result<Vec<String>, RpcError> {
        let scrubbed = self.scrubbed.borrow().clone();
        let mut findings: Vec<_> = scrubbed.and_then(|it| it.finding()).into_iter().collect();
        if slots.slots().len() == 1 {
            findings.push(
                "the store opens by one slot only: without its key the store is lost; keep a copy of it apart from the \
                 store, or add another slot: attache slot add"
                    .to_owned(),
            );
        }
        let of_shares = |slot: &Slot| slot.identity.kind == SlotKind::Shares;
        if slots.slots().all(of_shares) {
            findings.push(
                "the store opens by shares alone: a broker that is restarted stays sealed until enough people come; add a \
                 slot that it opens by itself: attache slot add"
                    .to_owned(),
            );
        }
        if self.vault.keys().arena().protection() == attache_arena::Protection::Plain {
            findings.push(
                "keys are in ordinary memory (keys.danger_plain_key_arena): never serve like this"
                    .to_owned(),
            );
        }
        if Timestamp::now().duration_until(certificate_ends) < CERTIFICATE_SOON {
            findings.push(format!(
                "the server certificate ends at {certificate_ends}; restart the broker to renew it"
            ));
        }
        let ca = self.peers.gate().authority().cas().active.clone();
        findings.extend(of_ca(
            ca.epoch(),
            ca.certificate().not_after(),
            Timestamp::now(),
        ));
        findings.extend(of_sign_ins(self.sign_ins(), Timestamp::now()));
        findings.extend(self.weak_nodes());
        findings.extend(self.of_backups().await?);
        let rotations = self.rotations.under_way(None, None, NAMED).into_iter();
        findings.extend(rotations.filter_map(|(key, progress)| stalled(&key, progress.problem)));
        let now_ms = self.log.clock().now_ms();
        let overdue = self.overdue.findings(&self.vault, &self.rotations, now_ms);
        findings.extend(overdue.await.unwrap_or_else(|error| {
            let error = with_causes(&error);
            vec![format!("the ages of keys cannot be looked at: {error}")]
        }));
        findings.extend(self.retagging.progress().and_then(not_retagged));
        let removals = self.removals.under_way(NAMED).into_iter();
        findings
            .extend(removals.filter_map(|(keyspace, progress)| left(&keyspace, progress.problem)));
        findings.extend(self.disks.iter().filter_map(|path| {
            let disk = statvfs(path).ok()?;
            full(path, disk.f_bavail, disk.f_blocks)
        }));
        let approvals = self.peers.gate().approvals().await?.into_iter();
        let waiting = approvals.filter(|(_, record)| record.decision.is_none());
        match waiting.count() {
            0 => {}
            count => findings.push(format!(
                "enrollments of nodes that have an identity wait for an operator: {count}; see attache approval list"
            )),
        }
        Ok(findings)
    }

    /// The operators who can call, and until when their certificates renew themselves.
    fn sign_ins(&self) -> Vec<(String, Timestamp)> {
        let (view, now) = (self.peers.gate().directory().view(), Timestamp::now());
        let operators = view.operators.iter();
        operators
            .filter(|(_, (_, operator))| operator.keys.current.not_after >= now)
            .map(|(name, (_, operator))| (name.clone(), operator.renews_until()))
            .collect()
    }

    /// What nodes say that their kernels lack, and what follows from it.
    fn weak_nodes(&self) -> impl Iterator<Item = String> + use<> {
        let directory = self.peers.gate().directory();
        let now = Timestamp::now();
        let weaknesses = [
            (
                directory.nodes_lacking(|lacks| lacks.inode_flags, now),
                "tmpfs has no inode flags (kernel 6.6 has): that a container does not change its secrets rests on \
                 csi.readOnly alone",
            ),
            (
                directory.nodes_lacking(|lacks| lacks.noswap, now),
                "tmpfs has no noswap (kernel 6.4 has): keep swap off, secrets are not mounted while it is on",
            ),
        ];
        weaknesses
            .into_iter()
            .filter(|(nodes, _)| !nodes.is_empty())
            .map(|(nodes, weakness)| format!("{}: {weakness}", named(&nodes)))
    }

    async fn of_backups(&self) -> Result<Option<String>, RpcError> {
        let records = Records(self.vault.ledger());
        let (mut all, mut verified) = (0_u64, None);
        let mut after = None;
        loop {
            let page = records.page(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            all += page.len() as u64;
            let whole = |it: &&BackupRecord| it.body.verified.is_some();
            let newest = page.iter().filter(whole).map(|it| it.body.created_ms).max();
            verified = verified.max(newest);
        }
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        Ok(of_backups(all, verified, now_ms))
    }
}

/// What is to be said of backups: how many are on record, and when the newest one was made that was found whole.
fn of_backups(all: u64, verified_ms: Option<u64>, now_ms: u64) -> Option<String> {
    let make = "attache backup create FILE, then attache backup verify FILE --vkey KEY";
    match verified_ms {
        None if all == 0 => Some(format!("no backup of the store is on record: {make}")),
        None => Some(
            "no backup on record was found whole: attache backup verify FILE --vkey KEY".to_owned(),
        ),
        Some(made_ms) => {
            let days = now_ms.saturating_sub(made_ms) / DAY_MS;
            (days >= BACKUP_DAYS).then(|| {
                format!("the newest backup that was found whole was made {days} days ago: {make}")
            })
        }
    }
}

/// A CA that is to be rotated while everybody can learn of the next one.
fn of_ca(epoch: u32, ends: Timestamp, now: Timestamp) -> Option<String> {
    (now.duration_until(ends) < CA_SOON).then(|| {
        format!(
            "the CA ca@{epoch} ends at {ends}, and with it all that it signed: attache key rotate --ca"
        )
    })
}

/// Operators who have to sign in anew soon, and by what.
fn of_sign_ins(mut all: Vec<(String, Timestamp)>, now: Timestamp) -> Option<String> {
    let others = all.len();
    all.retain(|(_, until)| now.duration_until(*until) < SIGN_IN_SOON);
    all.sort();
    let first = all.iter().map(|(_, until)| *until).min()?;
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    let mut named = names.get(..NAMED).unwrap_or(&names).join(", ");
    if all.len() > NAMED {
        named = format!("{named} and {} more", all.len() - NAMED);
    }
    let by = if others > all.len() {
        "another operator makes a code for that: attache operator add NAME"
    } else {
        "no other operator is signed in who could make a code: add one, or sign in by recovery on the broker's machine"
    };
    Some(format!(
        "the certificates of operators renew themselves until {first} only, and then they have to sign in anew: {named}; {by}"
    ))
}

fn stalled(key: &KeyRef, problem: Option<String>) -> Option<String> {
    Some(format!(
        "the values of {key} are not wrapped again: {}",
        problem?
    ))
}

fn not_retagged(progress: Progress) -> Option<String> {
    Some(format!(
        "rows are not tagged anew, and the MAC key before stays: {}",
        progress.problem?
    ))
}

fn left(keyspace: &Keyspace, problem: Option<String>) -> Option<String> {
    Some(format!(
        "what is left of the destroyed keyspace {keyspace} is not removed: {}",
        problem?
    ))
}

/// A disk of which less than a tenth is free, in blocks.
fn full(path: &Path, free: u64, all: u64) -> Option<String> {
    let percent = free.saturating_mul(100).checked_div(all)?;
    (percent < 10).then(|| {
        format!(
            "the disk of {} has {percent} % left: make room, since nothing is changed or released once it is full",
            path.display()
        )
    })
}

/// `node a`, `nodes a, b`, `nodes a, b and 7 more`.
fn named(nodes: &[String]) -> String {
    let noun = if nodes.len() == 1 { "node" } else { "nodes" };
    let names: Vec<_> = nodes.iter().take(NAMED).map(String::as_str).collect();
    let names = names.join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => format!("{noun} {names}"),
        more => format!("{noun} {names} and {more} more (attache node list)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_eight_nodes_and_counts_the_others() {
        let nodes: Vec<_> = (0..10).map(|n| format!("n{n}")).collect();
        assert_eq!(named(&nodes[..1]), "node n0");
        assert_eq!(named(&nodes[..2]), "nodes n0, n1");
        assert_eq!(
            named(&nodes),
            "nodes n0, n1, n2, n3, n4, n5, n6, n7 and 2 more (attache node list)"
        );
    }

    #[test]
    fn backups_are_missing_unverified_old_or_well() {
        let now = 100 * DAY_MS;
        let told = |all, verified| of_backups(all, verified, now).unwrap_or_default();
        assert!(told(0, None).contains("no backup of the store"));
        assert!(told(2, None).contains("was found whole"));
        assert!(told(2, Some(now - 30 * DAY_MS)).contains("30 days ago"));
        assert_eq!(told(2, Some(now - 30 * DAY_MS + 1)), "");
        assert_eq!(told(2, Some(now + 1)), "");
    }

    #[test]
    fn a_ca_and_sign_ins_that_end_soon_are_said_in_time() {
        let now = Timestamp::UNIX_EPOCH;
        let in_hours = |hours| now + SignedDuration::from_hours(hours);
        assert_eq!(of_ca(3, in_hours(24 * 90), now), None);
        let told = of_ca(3, in_hours(24 * 90 - 1), now).unwrap();
        assert!(
            told.contains("ca@3") && told.contains("1970-03-31"),
            "{told}"
        );
        assert!(of_ca(3, in_hours(-1), now).is_some());

        let ada = ("ada".to_owned(), in_hours(23));
        let bob = ("bob".to_owned(), in_hours(24));
        assert_eq!(of_sign_ins(vec![bob.clone()], now), None);
        assert_eq!(of_sign_ins(Vec::new(), now), None);
        let told = of_sign_ins(vec![ada.clone(), bob], now).unwrap();
        assert!(told.contains("anew: ada; another operator"), "{told}");
        let told = of_sign_ins(vec![ada.clone()], now).unwrap();
        assert!(told.contains("no other operator"), "{told}");
        let many: Vec<_> = (0..11).map(|n| (format!("o{n:02}"), ada.1)).collect();
        let told = of_sign_ins(many, now).unwrap();
        assert!(told.contains("o07 and 3 more"), "{told}");
    }

    #[test]
    fn what_stands_still_and_what_is_nearly_full_is_said() {
        let key = "payments@1".parse().unwrap();
        assert_eq!(stalled(&key, None), None);
        let told = stalled(&key, Some("2 of its values cannot be read".into())).unwrap();
        assert!(told.contains("payments@1") && told.contains("cannot be read"));
        let web = "web".parse().unwrap();
        assert!(left(&web, Some("damaged".into())).unwrap().contains("web"));
        let path = Path::new("/audit");
        assert_eq!(full(path, 10, 100), None);
        assert!(
            full(path, 99, 1000)
                .unwrap()
                .contains("/audit has 9 % left")
        );
        assert_eq!(full(path, 0, 0), None);
    }
}
