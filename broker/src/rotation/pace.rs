//! How fast a key's values may be wrapped again, and how fast they are.

use std::time::Duration;

use tokio::time::Instant;

/// Values in one commit: more save nothing, take more memory, and hold up other callers' commits longer.
pub(super) const BATCH: usize = 1024;

/// Values in one commit while others are served: it takes a core from them for a millisecond.
pub(super) const BESIDE_OTHERS: usize = 128;

/// They then have the machine to themselves for so many times as long as it took.
const REST: u32 = 2;

/// Commits in a second while there is a limit: a slow rate goes in even steps.
const STEPS_PER_SECOND: u32 = 4;

/// The pace of one key's values.
#[derive(Debug)]
pub(super) struct Pace {
    /// Values a second; 0 for no limit.
    limit: u32,
    /// When the next page may begin.
    due: Instant,
    began: Instant,
    values: u64,
    /// Whether others were served while the last page was made, or since the one before it.
    others: bool,
}

impl Pace {
    pub(super) const fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            due: now,
            began: now,
            values: 0,
            others: false,
        }
    }

    /// Whether nobody has set a limit.
    pub(super) const fn has_no_limit(&self) -> bool {
        self.limit == 0
    }

    /// Whether as many as go may go.
    pub(super) const fn is_free(&self) -> bool {
        self.has_no_limit() && !self.others
    }

    /// When the next step may be done.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// How many values the next page has at most.
    pub(super) fn page(&self) -> usize {
        match (self.limit, self.others) {
            (0, true) => return BESIDE_OTHERS,
            (0, false) => return BATCH,
            (1.., _) => {}
        }
        let page = self.limit.div_ceil(STEPS_PER_SECOND);
        usize::try_from(page).unwrap_or(BATCH).clamp(1, BATCH)
    }

    /// Takes a page into account that was begun at `begun` and has just become durable, and whether others were served
    /// since the one before. Without a limit, they then have the machine to themselves for twice as long as the page took.
    pub(super) fn took(&mut self, values: u64, begun: Instant, now: Instant, others: bool) {
        self.values = self.values.saturating_add(values);
        self.others = others;
        if self.limit > 0 {
            let values = u32::try_from(values).unwrap_or(u32::MAX);
            let pause = Duration::from_secs(1).saturating_mul(values) / self.limit;
            // From when it was due, so that the time of the commits is no part of the pause; but nothing is made up for.
            self.due = (self.due + pause).max(now);
        } else if others {
            self.due = now + now.saturating_duration_since(begun) * REST;
        } else {
            // Behind those that have waited longer.
            self.due = now;
        }
    }

    /// Does nothing more before `until`.
    pub(super) fn wait_until(&mut self, until: Instant) {
        self.due = until;
    }

    /// Values a second since this process began, in whole ones.
    pub(super) fn per_second(&self, now: Instant) -> u64 {
        let took = now.saturating_duration_since(self.began);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        self.values.saturating_mul(1000) / took_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_and_what_took_long_is_not_made_up_for() {
        let begin = Instant::now();
        let mut pace = Pace::new(100, begin);
        assert_eq!((pace.page(), pace.due()), (25, begin));
        pace.took(25, begin, begin + Duration::from_millis(40), false);
        assert_eq!(pace.due(), begin + Duration::from_millis(250));
        let late = begin + Duration::from_secs(9);
        pace.took(25, begin, late, true);
        assert_eq!(pace.due(), late);
        assert_eq!(pace.per_second(begin + Duration::from_secs(10)), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_a_second_is_one_a_page_and_no_limit_is_a_whole_batch() {
        let begin = Instant::now();
        let mut slow = Pace::new(1, begin);
        assert_eq!(slow.page(), 1);
        slow.took(1, begin, begin, false);
        assert_eq!(slow.due(), begin + Duration::from_secs(1));
        assert_eq!(Pace::new(u32::MAX, begin).page(), BATCH);
        let mut free = Pace::new(0, begin);
        assert_eq!(free.page(), BATCH);
        free.took(BATCH as u64, begin, begin + Duration::from_secs(1), false);
        // At once, but behind those that have waited longer.
        assert_eq!(free.due(), begin + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn others_that_are_served_have_twice_as_long_as_a_page_took() {
        let begin = Instant::now();
        let mut free = Pace::new(0, begin);
        let after = |ms| begin + Duration::from_millis(ms);
        free.took(BATCH as u64, begin, after(20), true);
        assert_eq!((free.page(), free.is_free()), (BESIDE_OTHERS, false));
        assert_eq!(free.due(), after(60));
        free.took(128, after(60), after(63), false);
        assert_eq!((free.page(), free.is_free()), (BATCH, true));
        assert_eq!(free.due(), after(63));
        // A limit says all there is to say.
        let mut limited = Pace::new(1000, begin);
        limited.took(250, begin, after(40), true);
        assert_eq!((limited.page(), limited.due()), (250, after(250)));
    }
}
