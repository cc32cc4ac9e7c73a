//! Spares an API server that does not answer, and its askers the wait.
//!
//! ```text
//! closed --FAILURES in a row--> open for RESTS_FOR --> one probe: answered -> closed | failed -> open again
//! ```
//! A failure is no answer in time, no connection, or a 5xx; any other answer, also a refusal, shows a server at work. Time
//! is the caller's.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// For how long nothing is asked then.
pub const RESTS_FOR: Duration = Duration::from_secs(5);

/// The breaker of one API server.
pub(super) struct Breaker {
    state: Mutex<State>,
    /// How many breakers are open.
    open: Gauge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

/// Leave to ask once. Dropped without a verdict, it leaves things as they were.
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    probes: bool,
    judged: bool,
}

impl Breaker {
    pub(super) fn new(open: Gauge) -> Self {
        Self {
            state: Mutex::new(State::Closed { failures: 0 }),
            open,
        }
    }

    /// Leave to ask, unless it is open.
    pub(super) fn leave(&self, now: Instant) -> Option<Leave<'_>> {
        let mut state = self.lock();
        let probes = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => {
                *state = State::Probing;
                true
            }
            State::Open { .. } | State::Probing => return None,
        };
        Some(Leave {
            breaker: self,
            probes,
            judged: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leave<'_> {
    /// Says how it went.
    pub(super) fn judge(mut self, answered: bool, now: Instant) {
        self.judged = true;
        let mut state = self.breaker.lock();
        let was_closed = matches!(*state, State::Closed { .. });
        *state = match *state {
            // Of those that were asked before it opened, none closes it: one probe does.
            state if was_closed == self.probes => state,
            _ if answered => State::Closed { failures: 0 },
            State::Closed { failures } if failures + 1 < FAILURES => State::Closed {
                failures: failures + 1,
            },
            State::Closed { .. } | State::Open { .. } | State::Probing => State::Open {
                until: now + RESTS_FOR,
            },
        };
        let is_closed = matches!(*state, State::Closed { .. });
        match (was_closed, is_closed) {
            (true, false) => drop(self.breaker.open.inc()),
            (false, true) => drop(self.breaker.open.dec()),
            (true, true) | (false, false) => {}
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.probes && !self.judged {
            // Who asks next is the probe.
            *self.breaker.lock() = State::Open {
                until: Instant::now(),
            };
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if !matches!(*self.lock(), State::Closed { .. }) {
            self.open.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            let now = Instant::now();
            breaker.leave(now).unwrap().judge(false, now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_failures_in_a_row_open_it_and_one_answer_between_does_not() {
        let open = Gauge::default();
        let breaker = Breaker::new(open.clone());
        fail(&breaker, FAILURES - 1);
        breaker
            .leave(Instant::now())
            .unwrap()
            .judge(true, Instant::now());
        fail(&breaker, FAILURES - 1);
        assert!(breaker.leave(Instant::now()).is_some());
        assert_eq!(open.get(), 0);
        fail(&breaker, 1);
        assert!(breaker.leave(Instant::now()).is_none());
        assert_eq!(open.get(), 1);
        drop(breaker);
        assert_eq!(open.get(), 0, "one that is gone is not open");
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_rest_one_probe_decides() {
        let open = Gauge::default();
        let breaker = Breaker::new(open.clone());
        fail(&breaker, FAILURES);
        tokio::time::advance(RESTS_FOR - Duration::from_millis(1)).await;
        assert!(breaker.leave(Instant::now()).is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        let probe = breaker.leave(Instant::now()).unwrap();
        assert!(breaker.leave(Instant::now()).is_none(), "one at a time");
        probe.judge(false, Instant::now());
        assert!(breaker.leave(Instant::now()).is_none());
        tokio::time::advance(RESTS_FOR).await;
        let probe = breaker.leave(Instant::now()).unwrap();
        assert_eq!(open.get(), 1);
        probe.judge(true, Instant::now());
        assert_eq!(open.get(), 0);
        fail(&breaker, FAILURES - 1);
        assert!(breaker.leave(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_asker_went_away_leaves_the_next_to_probe() {
        let breaker = Breaker::new(Gauge::default());
        fail(&breaker, FAILURES);
        tokio::time::advance(RESTS_FOR).await;
        drop(breaker.leave(Instant::now()).unwrap());
        breaker
            .leave(Instant::now())
            .unwrap()
            .judge(true, Instant::now());
        assert!(breaker.leave(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_earlier_question_does_not_close_it() {
        let breaker = Breaker::new(Gauge::default());
        let early = breaker.leave(Instant::now()).unwrap();
        fail(&breaker, FAILURES);
        early.judge(true, Instant::now());
        assert!(breaker.leave(Instant::now()).is_none());
    }
}
