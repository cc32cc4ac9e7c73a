//! Versions that pods' volumes name by their number: whoever was handed one lately keeps it from being pruned.
//!
//! ```text
//! a release, or "unchanged"   -> named: the version and when, once it is answered
//! one that the broker failed  -> named: what it would have been answered; unanswered: a keyspace that could not be read
//! a pruning                   -> until: how long a version stays because of it
//! ```
//! Nodes ask for each volume again and again, so that a version in use is named every minute or two; one that nobody has
//! named for the window is mounted nowhere. Nothing of it is in the store: for one window after a start everything counts
//! as mounted, since nodes have not asked yet; and so it does after an ask of which the broker could not learn whose it is,
//! as while an API server is away. Everything of a keyspace counts as mounted where it could not be read what of it a pod
//! names, and where that finds no room: nothing is forgotten. A keyspace has an eighth of the room at most: it takes eight
//! that are full to leave nothing to the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use attache_envelope::id::SecretId;
use attache_envelope::name::{Keyspace, SecretVersion};
use tokio::time::Instant;

/// How many versions are known at a time, each some 50 bytes.
const CAPACITY: usize = 65_536;

/// Of the room: so much of it one keyspace may have.
const SHARES: usize = 8;

/// Nodes ask for a volume once in so long at the latest: what kubelet takes for a round, and some.
const ROUND: Duration = Duration::from_secs(180);

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
    /// That it is not known what is mounted, of any keyspace.
    unknown: Unknown,
    window: Duration,
    capacity: usize,
    known: RwLock<HashMap<Keyspace, OfKeyspace>>,
    swept: AtomicU64,
}

/// What is known of one keyspace.
#[derive(Debug, Default)]
struct OfKeyspace {
    /// When each was last named.
    named: HashMap<(SecretId, SecretVersion), AtomicU64>,
    /// That it is not known what else is mounted of it.
    unknown: Unknown,
}

/// When it was last not known what is mounted, and since when that is so without a window between; 0 at the beginning.
#[derive(Debug, Default)]
struct Unknown {
    last: AtomicU64,
    since: AtomicU64,
}

/// Everything of a keyspace counts as mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Since when.
    pub since: Instant,
    /// Until when, if nothing comes between.
    pub until: Instant,
}

impl Mounted {
    /// A record that knows nothing yet.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        if window < ROUND {
            tracing::warn!(
                window_s = window.as_secs(),
                "store.mounted_window_s is shorter than the nodes' rounds: versions that \
                volumes name by their numbers may be pruned while they are mounted; set it to 180 or more"
            );
        }
        Self::with_capacity(window, CAPACITY)
    }

    fn with_capacity(window: Duration, capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                begun: Instant::now(),
                unknown: Unknown::default(),
                window,
                capacity,
                known: RwLock::default(),
                swept: AtomicU64::new(0),
            }),
        }
    }

    /// Takes down that a volume which names this version was answered. One that is known costs a look-up under a lock that
    /// readers share.
    pub fn named(&self, it: &Named) {
        let (shared, now) = (&self.shared, self.shared.now());
        let key = (it.secret, it.version);
        let known = shared.read();
        let last = known.get(&it.keyspace).and_then(|of| of.named.get(&key));
        if let Some(last) = last {
            last.fetch_max(now, Ordering::Relaxed);
            return;
        }
        drop(known);
        shared.add(&it.keyspace, key, now);
    }

    /// Takes down that a node asked for a volume and it could not be learnt whose it is, for a reason that is not the pod's:
    /// what it names is not known.
    pub fn unanswered(&self) {
        let shared = &self.shared;
        shared.note(&shared.unknown, shared.now());
    }

    /// Takes down that a pod names a version of this keyspace, and it could not be read which secret's.
    pub fn unanswered_of(&self, keyspace: &Keyspace) {
        let (shared, now) = (&self.shared, self.shared.now());
        let mut known = shared.write();
        if known.len() < shared.capacity || known.contains_key(keyspace) {
            let of = known.entry(keyspace.clone()).or_default();
            shared.note(&of.unknown, now);
        } else {
            shared.note(&shared.unknown, now);
        }
    }

    /// Whether everything of a keyspace counts as mounted; none: it is known what is.
    #[must_use]
    pub fn held(&self, keyspace: &Keyspace) -> Option<Held> {
        let (shared, known) = (&self.shared, self.shared.read());
        let of = known.get(keyspace).map(|of| &of.unknown);
        let held = of.into_iter().chain([&shared.unknown]);
        let held: Vec<_> = held.filter_map(|it| shared.held_by(it)).collect();
        let since = held.iter().map(|it| it.since).min()?;
        let until = held.iter().map(|it| it.until).max()?;
        Some(Held { since, until })
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
        let known = shared.read();
        let last = known.get(keyspace).map(|of| {
            let last = of.named.get(&(secret, version));
            let last = last.map(|it| it.load(Ordering::Relaxed));
            last.unwrap_or_default().max(of.unknown.last())
        });
        shared.end_of(last.unwrap_or_default().max(shared.unknown.last()))
    }

    /// For how long a version counts as mounted after it was named.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.shared.window
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

    fn spacing(&self) -> Duration {
        self.window / PARTS
    }

    /// The end of the window that begins here, if it is not over.
    fn end_of(&self, last: u64) -> Option<Instant> {
        let end = self.begun + Duration::from_millis(last) + self.window;
        (end > Instant::now()).then_some(end)
    }

    /// Takes down that it is not known now; answers whether it was known before.
    fn note(&self, unknown: &Unknown, now: u64) -> bool {
        let begins = self.held_by(unknown).is_none();
        if begins {
            unknown.since.store(now, Ordering::Relaxed);
        }
        unknown.last.fetch_max(now, Ordering::Relaxed);
        begins
    }

    fn held_by(&self, unknown: &Unknown) -> Option<Held> {
        let until = self.end_of(unknown.last())?;
        let since = Duration::from_millis(unknown.since.load(Ordering::Relaxed));
        let since = self.begun + since;
        Some(Held { since, until })
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Keyspace, OfKeyspace>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Keyspace, OfKeyspace>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new one in, where there is room.
    fn add(&self, keyspace: &Keyspace, key: (SecretId, SecretVersion), now: u64) {
        let mut known = self.write();
        if !self.has_room(&known, keyspace) {
            self.sweep(&mut known, now);
        }
        let room = self.has_room(&known, keyspace);
        let of = known.entry(keyspace.clone()).or_default();
        match of.named.get(&key) {
            Some(last) => drop(last.fetch_max(now, Ordering::Relaxed)),
            None if room => drop(of.named.insert(key, AtomicU64::new(now))),
            None => {
                if self.note(&of.unknown, now) {
                    tracing::warn!(%keyspace, "volumes name more versions by their numbers than are kept track of: \
                        nothing of the keyspace is pruned meanwhile");
                }
            }
        }
    }

    /// Whether there is any for one more of this keyspace.
    fn has_room(&self, known: &HashMap<Keyspace, OfKeyspace>, keyspace: &Keyspace) -> bool {
        let all: usize = known.values().map(|of| of.named.len()).sum();
        let own = known.get(keyspace).map_or(0, |of| of.named.len());
        all < self.capacity && own < self.capacity.div_ceil(SHARES)
    }

    /// Drops what is over, but not again and again.
    fn sweep(&self, known: &mut HashMap<Keyspace, OfKeyspace>, now: u64) {
        let swept = self.swept.load(Ordering::Relaxed);
        let spacing = u64::try_from(self.spacing().as_millis()).unwrap_or(u64::MAX);
        if now < swept.saturating_add(spacing) {
            return;
        }
        self.swept.store(now, Ordering::Relaxed);
        let stays = |last: &AtomicU64| self.end_of(last.load(Ordering::Relaxed)).is_some();
        known.retain(|_, of| {
            of.named.retain(|_, last| stays(last));
            !of.named.is_empty() || stays(&of.unknown.last)
        });
    }
}

impl Unknown {
    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
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

    /// Since when and until when.
    fn held(mounted: &Mounted, keyspace: &str) -> Option<(Instant, Instant)> {
        let held = mounted.held(&keyspace.parse().unwrap())?;
        Some((held.since, held.until))
    }

    fn until(mounted: &Mounted, it: &Named) -> Option<Instant> {
        mounted.until(&it.keyspace, it.secret, it.version)
    }

    #[tokio::test(start_paused = true)]
    async fn everything_counts_as_mounted_until_nodes_have_had_the_time_to_ask() {
        let mounted = Mounted::new(WINDOW);
        let (since, end) = (Instant::now(), Instant::now() + WINDOW);
        assert_eq!(held(&mounted, "a"), Some((since, end)));
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(Duration::from_millis(1)).await;
        assert_eq!(held(&mounted, "a"), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_counts_as_mounted_again_after_an_ask_that_is_of_nobody_known() {
        let mounted = Mounted::new(WINDOW);
        advance(WINDOW).await;
        assert_eq!(held(&mounted, "a"), None);
        mounted.unanswered();
        let end = Instant::now() + WINDOW;
        assert_eq!(held(&mounted, "a"), Some((Instant::now(), end)));
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        advance(WINDOW).await;
        assert_eq!(held(&mounted, "a"), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_keyspace_that_could_not_be_read_is_held_and_no_other_and_it_is_known_since_when() {
        let mounted = Mounted::with_capacity(WINDOW, 1);
        advance(2 * WINDOW).await;
        let since = Instant::now();
        for _ in 0..5 {
            mounted.unanswered_of(&"a".parse().unwrap());
            advance(WINDOW / 2).await;
        }
        let end = Instant::now() + WINDOW / 2;
        assert_eq!(held(&mounted, "a"), Some((since, end)));
        assert_eq!(until(&mounted, &named("a", 1, 1)), Some(end));
        assert_eq!(held(&mounted, "b"), None);
        assert_eq!(until(&mounted, &named("b", 1, 1)), None);
        advance(WINDOW).await;
        assert_eq!(held(&mounted, "a"), None);
        // One that finds no room holds all: nothing is forgotten.
        mounted.unanswered_of(&"b".parse().unwrap());
        assert_eq!(held(&mounted, "c").map(|it| it.0), Some(Instant::now()));
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
        // Two in all, and one of each keyspace.
        let mounted = Mounted::with_capacity(WINDOW, 2);
        advance(WINDOW).await;
        mounted.named(&named("a", 1, 1));
        mounted.named(&named("c", 1, 2));
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
    async fn a_keyspace_that_has_its_share_takes_none_of_anothers() {
        let mounted = Mounted::with_capacity(WINDOW, 2 * SHARES);
        advance(WINDOW).await;
        for version in 1..=100 {
            mounted.named(&named("a", 1, version));
        }
        let end = Instant::now() + WINDOW;
        // All of it stays, for it is not known what of it is mounted.
        assert_eq!(until(&mounted, &named("a", 9, 9)), Some(end));
        mounted.named(&named("b", 2, 1));
        assert_eq!(until(&mounted, &named("b", 2, 1)), Some(end));
        assert_eq!(until(&mounted, &named("b", 2, 2)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_keeps_nothing() {
        let mounted = Mounted::new(Duration::ZERO);
        mounted.named(&named("a", 1, 1));
        assert_eq!(held(&mounted, "a"), None);
        assert_eq!(until(&mounted, &named("a", 1, 1)), None);
    }
}
