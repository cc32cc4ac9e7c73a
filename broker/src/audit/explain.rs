//! From a decision id to its latest evaluation, with the true reason: what `why` shows an operator.
//!
//! Kept in memory for the newest decisions, and for older ones that are evaluated again and again; a start rebuilds it from the last segment of the log. Everything
//! older is in the log for whoever reads it whole.

use std::collections::{HashMap, VecDeque};

use attache_translog::{Denial, Event, Leaf};

/// How many decisions are kept: as many as refusals are folded.
const KEPT: usize = 10_000;

/// The id of a decision, as the pod's author sees it in hex.
pub type DecisionId = [u8; 4];

/// The latest evaluation behind a decision id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// Who asked for what, what they were told, and what is true.
    pub denial: Denial,
    /// How often it was refused.
    pub count: u64,
    /// When for the first time, in ms since 1970.
    pub first_ms: u64,
    /// When for the last time.
    pub last_ms: u64,
}

/// Decisions by id. Past the bound the oldest is dropped that was not evaluated again since it was last its turn.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_id: HashMap<DecisionId, Kept>,
    oldest_first: VecDeque<DecisionId>,
}

#[derive(Debug)]
struct Kept {
    evaluation: Evaluation,
    again: bool,
}

impl Index {
    /// Takes up a leaf of the log.
    pub(super) fn take(&mut self, leaf: Leaf) {
        match leaf.event {
            Event::Denial(denial) => self.evaluated(denial, leaf.time_ms),
            Event::Refusals(repeats) => {
                let known = repeats.denial.and_then(|id| self.by_id.get_mut(&id));
                if let Some(known) = known {
                    let of = &mut known.evaluation;
                    of.count = of.count.saturating_add(repeats.count);
                    of.last_ms = of.last_ms.max(repeats.last_ms);
                    known.again = true;
                }
            }
            Event::Start(_)
            | Event::Stop(_)
            | Event::Release(_)
            | Event::Intent(_)
            | Event::Outcome(_)
            | Event::Cut(_)
            | Event::Bootstrap(_)
            | Event::Enrollment(_)
            | Event::Renewal(_)
            | Event::Ban(_)
            | Event::Alarm(_)
            | Event::Anchor(_)
            | Event::Retirement(_)
            | Event::Succession(_)
            | Event::Rotation(_)
            | Event::Removal(_)
            | Event::Opening(_)
            | Event::Attempts(_)
            | Event::Pruning(_)
            | Event::Sealing(_) => {}
        }
    }

    /// A request was refused, for the first time or again.
    pub(super) fn evaluated(&mut self, denial: Denial, now_ms: u64) {
        let Some(id) = denial.denial else {
            return;
        };
        if let Some(known) = self.by_id.get_mut(&id) {
            let of = &mut known.evaluation;
            of.denial = denial;
            of.count = of.count.saturating_add(1);
            of.last_ms = of.last_ms.max(now_ms);
            known.again = true;
            return;
        }
        if self.oldest_first.len() == KEPT {
            self.drop_one();
        }
        self.oldest_first.push_back(id);
        let evaluation = Evaluation {
            denial,
            count: 1,
            first_ms: now_ms,
            last_ms: now_ms,
        };
        let again = false;
        self.by_id.insert(id, Kept { evaluation, again });
    }

    fn drop_one(&mut self) {
        while let Some(oldest) = self.oldest_first.pop_front() {
            match self.by_id.get_mut(&oldest) {
                Some(kept) if kept.again => {
                    kept.again = false;
                    self.oldest_first.push_back(oldest);
                }
                _ => {
                    self.by_id.remove(&oldest);
                    return;
                }
            }
        }
    }

    pub(super) fn find(&self, id: DecisionId) -> Option<&Evaluation> {
        self.by_id.get(&id).map(|kept| &kept.evaluation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(id: u32) -> Denial {
        let id = Some(id.to_be_bytes());
        crate::audit::tests::denial(
            "spiffe://example.internal/node/local/a",
            id,
            "no grant",
            "absent",
        )
    }

    #[test]
    fn what_is_refused_again_and_again_is_kept_and_the_rest_goes_by_age() {
        let mut index = Index::default();
        let new = u32::try_from(KEPT).unwrap();
        for id in 0..3 * new {
            index.evaluated(denial(id), 1);
            index.evaluated(denial(u32::MAX), 2);
        }
        assert_eq!((index.by_id.len(), index.oldest_first.len()), (KEPT, KEPT));
        let again = index.find(u32::MAX.to_be_bytes()).unwrap();
        assert_eq!((again.count, again.first_ms), (u64::from(3 * new), 2));
        assert!(index.find(0_u32.to_be_bytes()).is_none());
        assert!(index.find((3 * new - 1).to_be_bytes()).is_some());
        assert!(index.find((2 * new + 1).to_be_bytes()).is_some());
        assert!(
            index.find((2 * new).to_be_bytes()).is_none(),
            "one place is taken"
        );
    }
}
