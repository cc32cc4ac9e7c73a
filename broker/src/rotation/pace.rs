//! How fast a key's values may be wrapped again, and how fast they are.

use std::time::Duration;

use tokio::time::Instant;

/// Values in one commit: more save little, and hold up other callers' commits longer.
pub(super) const BATCH: usize = 2048;

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
}

impl Pace {
    pub(super) const fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            due: now,
            began: now,
            values: 0,
        }
    }

    /// Whether as many as go may go.
    pub(super) const fn is_free(&self) -> bool {
        self.limit == 0
    }

    /// When the next step may be done.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// How many values the next page has at most.
    pub(super) fn page(&self) -> usize {
        if self.is_free() {
            return BATCH;
        }
        let page = self.limit.div_ceil(STEPS_PER_SECOND);
        usize::try_from(page).unwrap_or(BATCH).clamp(1, BATCH)
    }

    /// Takes a page into account that has just become durable.
    pub(super) fn took(&mut self, values: u64, now: Instant) {
        self.values = self.values.saturating_add(values);
        if self.limit > 0 {
            let values = u32::try_from(values).unwrap_or(u32::MAX);
            let pause = Duration::from_secs(1).saturating_mul(values) / self.limit;
            // From when it was due, so that the time of the commits is no part of the pause; but nothing is made up for.
            self.due = (self.due + pause).max(now);
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
        pace.took(25, begin + Duration::from_millis(40));
        assert_eq!(pace.due(), begin + Duration::from_millis(250));
        let late = begin + Duration::from_secs(9);
        pace.took(25, late);
        assert_eq!(pace.due(), late);
        assert_eq!(pace.per_second(begin + Duration::from_secs(10)), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_a_second_is_one_a_page_and_no_limit_is_a_whole_batch() {
        let begin = Instant::now();
        let mut slow = Pace::new(1, begin);
        assert_eq!(slow.page(), 1);
        slow.took(1, begin);
        assert_eq!(slow.due(), begin + Duration::from_secs(1));
        assert_eq!(Pace::new(u32::MAX, begin).page(), BATCH);
        let mut free = Pace::new(0, begin);
        assert_eq!(free.page(), BATCH);
        free.took(2048, begin + Duration::from_secs(1));
        // At once, but behind those that have waited longer.
        assert_eq!(free.due(), begin + Duration::from_secs(1));
    }
}
