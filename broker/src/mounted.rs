//! Versions that pods' volumes name by their number: whoever was handed one lately keeps it from being pruned.
//!
//! ```text
//! a release, or "unchanged"   -> named: the version and when, once it is answered
//! a pruning                   -> until: how long a version stays because of it
//! ```
//! Nodes ask for each volume again and again, so that a version in use is named every minute or two; one that nobody has
//! named for the window is mounted nowhere. Nothing of it is in the store: for one window after a start everything counts
//! as mounted, since nodes have not asked yet; and so it does after an ask that could be neither answered nor refused. What finds no room keeps all of its keyspace: nothing is forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use attache_envelope::id::SecretId;
use attache_envelope::name::{Keyspace, SecretVersion};
use tokio::time::Instant;

/// How many versions are known at a time, each some 50 bytes.
const CAPACITY: usize = 65_536;

/// Of the window: so long passes between two sweeps of a full record, or between two passes of the pruning over what was
/// mounted.
const PARTS: u32 = 16;

/// What is mounted, as far as it is known here. A clone is the same.
#[derive(Debug, Clone)]
pub struct Mounted {
    shared: Arc<Shared>,
}

/// A version of a secret, and in which keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// The secret.
    pub secret: SecretId,
    /// The version.
    pub version: SecretVersion,
}

/// Times are milliseconds since the beginning.
#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// When it was last not known what is mounted.
    unknown: AtomicU64,
    window: Duration,
    capacity: usize,
    named: RwLock<HashMap<(SecretId, SecretVersion), AtomicU64>>,
    /// Keyspaces of which something found no room, and when it did last.
    full: Mutex<HashMap<Keyspace, u64>>,
    swept: AtomicU64,
}

impl Mounted {
    /// A record that knows nothing yet.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self::with_capacity(window, CAPACITY)
    }

    fn with_capacity(window: Duration, capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                begun: Instant::now(),
                unknown: AtomicU64::new(0),
                window,
                capacity,
                named: RwLock::default(),
                full: Mutex::default(),
                swept: AtomicU64::new(0),
            }),
        }
    }

    /// Takes down that a volume which names this version was answered. One that is known costs a look-up under a lock that
    /// readers share.
    pub fn named(&self, it: &Named) {
        let (shared, now) = (&self.shared, self.shared.now());
        let key = (it.secret, it.version);
        let known = shared.named.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = known.get(&key) {
            last.fetch_max(now, Ordering::Relaxed);
            return;
        }
        drop(known);
        if !shared.add(key, now) {
            let mut full = shared.full.lock().unwrap_or_else(PoisonError::into_inner);
            full.insert(it.keyspace.clone(), now);
        }
    }

    /// Takes down that a node asked for a volume and got no answer, for a reason that is not the pod's: what it names is not
    /// known.
    pub fn unanswered(&self) {
        let now = self.shared.now();
        self.shared.unknown.fetch_max(now, Ordering::Relaxed);
    }

    /// Until when every version counts as mounted; none: it is known what is.
    #[must_use]
    pub fn unknown_until(&self) -> Option<Instant> {
        self.shared.end_of(self.shared.unknown())
    }

    /// Until when this version counts as mounted, if nobody names it meanwhile; none: it is mounted nowhere.
    #[must_use]
    pub fn until(
        &self,
        keyspace: &Keyspace,
        secret: SecretId,
        version: SecretVersion,
    ) -> Option<Instant> {
        let shared = &self.shared;
        let full = shared.full.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = full.get(keyspace).copied();
        // Never held together with the other one but by who sweeps.
        drop(full);
        let known = shared.named.read().unwrap_or_else(PoisonError::into_inner);
        let last = known.get(&(secret, version));
        let last = last.map(|it| it.load(Ordering::Relaxed));
        let known = last.max(full_at).unwrap_or_default();
        shared.end_of(known.max(shared.unknown()))
    }

    /// The least time between two looks at what was mounted.
    #[must_use]
    pub fn spacing(&self) -> Duration {
        self.shared.spacing()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn spacing(&self) -> Duration {
        self.window / PARTS
    }

    /// The end of the window that begins here, if it is not over.
    fn end_of(&self, last: u64) -> Option<Instant> {
        let end = self.begun + Duration::from_millis(last) + self.window;
        (end > Instant::now()).then_some(end)
    }

    /// Takes a new one in, where there is room.
    fn add(&self, key: (SecretId, SecretVersion), now: u64) -> bool {
        let mut known = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.capacity {
            self.sweep(&mut known, now);
        }
        let room = known.len() < self.capacity;
        match known.entry(key) {
            Entry::Occupied(found) => {
                found.get().fetch_max(now, Ordering::Relaxed);
                true
            }
            Entry::Vacant(place) => {
                if room {
                    place.insert(AtomicU64::new(now));
                }
                room
            }
        }
    }

    /// Drops what is over, but not again and again.
    fn sweep(&self, known: &mut HashMap<(SecretId, SecretVersion), AtomicU64>, now: u64) {
        let swept = self.swept.load(Ordering::Relaxed);
        let spacing = u64::try_from(self.spacing().as_millis()).unwrap_or(u64::MAX);
        if now < swept.saturating_add(spacing) {
            return;
        }
        self.swept.store(now, Ordering::Relaxed);
        known.retain(|_, last| self.end_of(last.load(Ordering::Relaxed)).is_some());
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.retain(|_, last| self.end_of(*last).is_some());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::time::{advance, pause, resume};

    use super::*;

    /// Moves the clock that windows are counted by, and no other.
    pub(crate) async fn pass_time(time: Duration) {
        pause();
        advance(time).await;
        resume();
    }

    const WINDOW: Duration = Duration::from_secs(900);

    fn named(keyspace: &str, secret: u8, version: u64) -> Named {
        Named {
            keyspace: keyspace.parse().unwrap(),
            secret: SecretId::from_bytes([secret; 16]),
            version: SecretVersion::new(version).unwrap(),
        }
    }

    fn until(mounted: &Mounted, it: &Named) -> Option<Instant> {
        mounted.until(&it.keyspace, it.secret, it.version)
    }

    #[tokio::test(start_paused = true)]
    async fn everything_counts_as_mounted_until_nodes_have_had_the_time_to_ask() {
        let mounted = Mounted::new(WINDOW);
        let end = Instant::now() + WINDOW;
        assert_eq!(mounted.unknown_until(), Some(end));
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(Duration::from_millis(1)).await;
        assert_eq!(mounted.unknown_until(), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_counts_as_mounted_again_after_an_ask_that_was_not_answered() {
        let mounted = Mounted::new(WINDOW);
        advance(WINDOW).await;
        assert_eq!(mounted.unknown_until(), None);
        mounted.unanswered();
        let end = Instant::now() + WINDOW;
        assert_eq!(mounted.unknown_until(), Some(end));
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(WINDOW).await;
        assert_eq!(mounted.unknown_until(), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_named_stays_for_the_window_after_the_last_time_and_nothing_else() {
        let mounted = Mounted::new(WINDOW);
        advance(WINDOW).await;
        let one = named("a", 1, 1);
        mounted.named(&one);
        advance(WINDOW / 2).await;
        mounted.named(&one);
        let end = Instant::now() + WINDOW;
        advance(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(until(&mounted, &one), Some(end));
        for other in [named("a", 1, 2), named("a", 2, 1), named("b", 2, 1)] {
            assert_eq!(until(&mounted, &other), None, "{other:?}");
        }
        advance(Duration::from_millis(1)).await;
        assert_eq!(until(&mounted, &one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_keeps_its_keyspace_and_no_other_until_there_is_room() {
        let mounted = Mounted::with_capacity(WINDOW, 2);
        advance(WINDOW).await;
        mounted.named(&named("a", 1, 1));
        mounted.named(&named("a", 1, 2));
        mounted.named(&named("b", 2, 1));
        // One that is in is named again where there is no room.
        mounted.named(&named("a", 1, 1));
        let end = Instant::now() + WINDOW;
        assert_eq!(until(&mounted, &named("b", 3, 9)), Some(end));
        assert_eq!(until(&mounted, &named("a", 1, 3)), None);
        advance(WINDOW).await;
        assert_eq!(until(&mounted, &named("b", 3, 9)), None);
        // What is over has made room.
        mounted.named(&named("b", 2, 1));
        assert!(until(&mounted, &named("b", 2, 1)).is_some());
        assert_eq!(until(&mounted, &named("b", 3, 9)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_keeps_nothing() {
        let mounted = Mounted::new(Duration::ZERO);
        mounted.named(&named("a", 1, 1));
        assert_eq!(mounted.unknown_until(), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }
}
