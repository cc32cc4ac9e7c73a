//! The record of this node's volumes: which are published, what is under way with each, and who may begin what.
//!
//! ```text
//!            publish                     done
//!   absent ----------> publishing ---------------> published <---> refreshing (one; the newest request waits)
//!     ^  ^---- failed ----|                            | unpublish: the refresh is told to stop and waited for
//!     |------------------------ unpublishing <---------|
//! ```
//! Whoever is given a claim or a refresh holds the volume until it is dropped, however it ends; a claim that is dropped
//! leaves the volume absent. Nothing here waits, and the lock is never held across anything else. A volume that is
//! absent takes no memory, and its token is gone with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::csi::request::PublishRequest;
use crate::ipc::Generation;
use crate::volume::Target;

/// What is known of a published volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// What it holds; none when it was found in a state that the next refresh must mend.
    pub(super) held: Option<Generation>,
    /// Why the last refresh failed, if it did: shown to kubelet as the volume's condition.
    pub(super) trouble: Option<String>,
}

/// All volumes of this node. A clone is the same table.
#[derive(Clone, Default)]
pub(super) struct Table {
    slots: Arc<Mutex<Slots>>,
}

#[derive(Default)]
struct Slots {
    volumes: HashMap<Target, Slot>,
    /// While somebody looks at what is mounted: the volumes with which something was begun meanwhile.
    begun: Option<HashSet<Target>>,
}

enum Slot {
    Publishing,
    Published {
        record: Record,
        refresh: Option<Running>,
    },
    Unpublishing,
}

/// A refresh under way.
struct Running {
    /// The newest request that came since it began.
    next: Option<Box<PublishRequest>>,
    /// Tells it to stop.
    stop: CancellationToken,
    /// It has ended.
    ended: CancellationToken,
}

/// What a publish is to do.
pub(super) enum Publish {
    /// Mount it: the volume is the holder's until the claim is dropped.
    First(Claim, PublishRequest),
    /// It should be there; see whether it is, and still what it should be.
    Refresh(Refresh, PublishRequest),
    /// It should be there, and a refresh that is under way will take this request up.
    Queued,
    /// Something else is under way with it.
    Busy,
}

/// What an unpublish is to do.
pub(super) enum Unpublish {
    /// Unmount it, once `refresh` (if there is one) has ended.
    Begin {
        claim: Claim,
        refresh: Option<CancellationToken>,
    },
    /// Something else is under way with it.
    Busy,
}

impl Table {
    /// Begins a publish.
    pub(super) fn publish(&self, request: PublishRequest) -> Publish {
        let mut slots = self.lock();
        slots.begin(&request.target);
        match slots.volumes.get_mut(&request.target) {
            None => {
                let target = request.target.clone();
                slots.volumes.insert(target, Slot::Publishing);
                Publish::First(self.claim(&request.target), request)
            }
            Some(Slot::Published {
                refresh: Some(running),
                ..
            }) => {
                running.next = Some(Box::new(request));
                Publish::Queued
            }
            Some(Slot::Published { refresh, .. }) => {
                let stop = CancellationToken::new();
                let ended = CancellationToken::new();
                *refresh = Some(Running {
                    next: None,
                    stop: stop.clone(),
                    ended: ended.clone(),
                });
                let target = request.target.clone();
                Publish::Refresh(
                    Refresh {
                        table: self.clone(),
                        target,
                        stop,
                        ended,
                    },
                    request,
                )
            }
            Some(Slot::Publishing | Slot::Unpublishing) => Publish::Busy,
        }
    }

    /// How many volumes are published, and how many of those are in trouble.
    pub(super) fn counted(&self) -> (usize, usize) {
        let slots = self.lock();
        let records = slots.volumes.values().filter_map(|slot| match slot {
            Slot::Published { record, .. } => Some(record),
            Slot::Publishing | Slot::Unpublishing => None,
        });
        records.fold((0, 0), |(published, troubled), record| {
            let trouble = usize::from(record.trouble.is_some());
            (published + 1, troubled + trouble)
        })
    }

    /// Begins an unpublish.
    pub(super) fn unpublish(&self, target: &Target) -> Unpublish {
        let mut slots = self.lock();
        slots.begin(target);
        let refresh = match slots.volumes.get_mut(target) {
            Some(Slot::Publishing | Slot::Unpublishing) => return Unpublish::Busy,
            None | Some(Slot::Published { refresh: None, .. }) => None,
            Some(Slot::Published {
                refresh: Some(running),
                ..
            }) => {
                running.stop.cancel();
                Some(running.ended.clone())
            }
        };
        slots.volumes.insert(target.clone(), Slot::Unpublishing);
        Unpublish::Begin {
            claim: self.claim(target),
            refresh,
        }
    }

    /// What is known of a volume; none unless it is published.
    pub(super) fn record(&self, target: &Target) -> Option<Record> {
        match self.lock().volumes.get(target) {
            Some(Slot::Published { record, .. }) => Some(record.clone()),
            Some(Slot::Publishing | Slot::Unpublishing) | None => None,
        }
    }

    /// Notes why a volume was not refreshed; answers whether it is published.
    pub(super) fn trouble(&self, target: &Target, trouble: String) -> bool {
        match self.lock().volumes.get_mut(target) {
            Some(Slot::Published { record, .. }) => {
                record.trouble = Some(trouble);
                true
            }
            Some(Slot::Publishing | Slot::Unpublishing) | None => false,
        }
    }

    /// Begins a look at what is mounted.
    pub(super) fn look(&self) -> Look<'_> {
        self.lock().begun = Some(HashSet::new());
        Look(self)
    }

    /// How many volumes are published.
    pub(super) fn published(&self) -> usize {
        self.lock()
            .volumes
            .values()
            .filter(|slot| matches!(slot, Slot::Published { .. }))
            .count()
    }

    fn claim(&self, target: &Target) -> Claim {
        Claim {
            table: self.clone(),
            target: target.clone(),
            becomes: None,
        }
    }

    /// No operation on the map can leave it half done, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn begin(&mut self, target: &Target) {
        if let Some(begun) = &mut self.begun {
            begun.insert(target.clone());
        }
    }
}

/// A look at what is mounted, while volumes come and go.
pub(super) struct Look<'a>(&'a Table);

impl Look<'_> {
    /// Takes over what was found mounted, and forgets what is recorded and was not found. Volumes with which something
    /// is under way are left to whoever does it; with those that something was begun with meanwhile, what was seen may be
    /// older than what is known.
    pub(super) fn reconcile(self, found: impl IntoIterator<Item = (Target, Record)>) {
        let mut found: HashMap<Target, Record> = found.into_iter().collect();
        let mut slots = self.0.lock();
        let begun = slots.begun.take().unwrap_or_default();
        found.retain(|target, _| !begun.contains(target));
        slots.volumes.retain(|target, slot| {
            let seen = found.remove(target);
            match slot {
                Slot::Publishing
                | Slot::Unpublishing
                | Slot::Published {
                    refresh: Some(_), ..
                } => true,
                Slot::Published { .. } if begun.contains(target) => true,
                Slot::Published {
                    record,
                    refresh: None,
                } => seen.is_some_and(|seen| {
                    *record = seen;
                    true
                }),
            }
        });
        let taken_over = found.into_iter().map(|(target, record)| {
            let refresh = None;
            (target, Slot::Published { record, refresh })
        });
        slots.volumes.extend(taken_over);
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.lock().begun = None;
    }
}

/// The volume, for a first publish or an unpublish. Dropped, it leaves the volume absent, unless it was published.
pub(super) struct Claim {
    table: Table,
    target: Target,
    becomes: Option<Record>,
}

impl Claim {
    /// The volume is mounted and whole.
    pub(super) fn published(mut self, record: Record) {
        self.becomes = Some(record);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slots = self.table.lock();
        match self.becomes.take() {
            Some(record) => {
                slots.volumes.insert(
                    self.target.clone(),
                    Slot::Published {
                        record,
                        refresh: None,
                    },
                );
            }
            None => {
                slots.volumes.remove(&self.target);
                let room = 2 * slots.volumes.len();
                slots.volumes.shrink_to(room);
            }
        }
    }
}

/// The right to refresh one volume. Dropped, it lets the next one begin.
pub(super) struct Refresh {
    table: Table,
    target: Target,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Refresh {
    /// Cancelled when the volume is to be unpublished.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// What the volume holds; nothing is known once it is being unpublished.
    pub(super) fn held(&self) -> Option<Generation> {
        self.table
            .record(&self.target)
            .and_then(|record| record.held)
    }

    /// Notes how the refresh went.
    pub(super) fn note(&self, record: Record) {
        if let Some(Slot::Published { record: noted, .. }) =
            self.table.lock().volumes.get_mut(&self.target)
        {
            *noted = record;
        }
    }

    /// Takes the volume for a publish from the beginning, since it is not mounted any more; none once it is being
    /// unpublished.
    pub(super) fn remount(self) -> Option<Claim> {
        match self.table.lock().volumes.get_mut(&self.target) {
            Some(slot @ Slot::Published { .. }) => *slot = Slot::Publishing,
            Some(Slot::Publishing | Slot::Unpublishing) | None => return None,
        }
        Some(self.table.claim(&self.target))
    }

    /// Forgets the volume: it is not mounted any more, or not what was written, and the next publish mends it.
    pub(super) fn forget(self) {
        let mut slots = self.table.lock();
        let noted = slots.volumes.get(&self.target);
        if matches!(noted, Some(Slot::Published { .. })) {
            slots.volumes.remove(&self.target);
        }
    }

    /// The newest request that came meanwhile, to be taken up now; none ends the refresh.
    pub(super) fn next(self) -> Option<(Self, PublishRequest)> {
        let taken = match self.table.lock().volumes.get_mut(&self.target) {
            Some(Slot::Published {
                refresh: refresh @ Some(_),
                ..
            }) => {
                let next = refresh.as_mut().and_then(|running| running.next.take());
                if next.is_none() {
                    *refresh = None;
                }
                next
            }
            _ => None,
        };
        taken.map(|request| (self, *request))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        // Only a refresh that panicked is still noted here; its volume must not wait for it for ever.
        if let Some(Slot::Published { refresh, .. }) =
            self.table.lock().volumes.get_mut(&self.target)
            && refresh
                .as_ref()
                .is_some_and(|running| running.ended == self.ended)
        {
            *refresh = None;
        }
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests;
