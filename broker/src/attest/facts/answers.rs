//! Answers of an API server, kept for a moment; a question that is under way is not asked twice.
//!
//! An answer's age counts from when it was asked for: it says nothing of what came after. Whoever asks while a question is
//! under way waits for that answer, an error too; an error is told to nobody who comes later. When who asked goes away,
//! the next who waits asks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::kubernetes::{ApiError, DEADLINE};

/// How many answers of a kind are kept at most.
const KEPT: usize = 1024;

/// Answers by what was asked.
pub(super) struct Answers<K, V> {
    questions: Mutex<HashMap<K, Arc<Question<V>>>>,
}

struct Question<V> {
    asked: Instant,
    answer: OnceCell<Result<Kept<V>, ApiError>>,
}

struct Kept<V> {
    value: V,
    good_for: Duration,
}

/// An answer.
pub(super) struct Answer<V> {
    pub(super) value: V,
    /// Whether somebody else had asked for it.
    pub(super) cached: bool,
}

impl<K: Eq + Hash, V: Clone> Answers<K, V> {
    pub(super) fn new() -> Self {
        let questions = Mutex::default();
        Self { questions }
    }

    /// The answer to `key`: one that is at hand and still good, or what `ask` brings, which is good for as long as
    /// `good_for` says of it.
    ///
    /// # Errors
    /// What `ask` says.
    pub(super) async fn find(
        &self,
        key: K,
        ask: impl Future<Output = Result<V, ApiError>>,
        good_for: impl FnOnce(&V) -> Duration,
    ) -> Result<Answer<V>, ApiError> {
        let question = self.question(key);
        let mut cached = true;
        let answer = question.answer.get_or_init(async || {
            cached = false;
            let value = ask.await?;
            let good_for = good_for(&value);
            Ok(Kept { value, good_for })
        });
        match answer.await {
            Ok(kept) => Ok(Answer {
                value: kept.value.clone(),
                cached,
            }),
            Err(error) => Err(error.clone()),
        }
    }

    fn question(&self, key: K) -> Arc<Question<V>> {
        let mut questions = self
            .questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = questions.get(&key).filter(|known| known.is_good()) {
            return Arc::clone(known);
        }
        if questions.len() >= KEPT {
            questions.retain(|_, question| question.is_good());
        }
        if questions.len() >= KEPT {
            // Who waits for one of them goes on waiting for it.
            questions.clear();
        }
        let new = Arc::new(Question {
            asked: Instant::now(),
            answer: OnceCell::new(),
        });
        questions.insert(key, Arc::clone(&new));
        new
    }
}

impl<V> Question<V> {
    fn is_good(&self) -> bool {
        let good_for = match self.answer.get() {
            None => DEADLINE,
            Some(Ok(kept)) => kept.good_for,
            Some(Err(_)) => Duration::ZERO,
        };
        self.asked.elapsed() < good_for
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const GOOD: Duration = Duration::from_secs(5);

    #[derive(Default)]
    struct Server(AtomicU32);

    impl Server {
        /// Answers after a second with how often it was asked.
        async fn ask(&self) -> Result<u32, ApiError> {
            let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(number)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_as_old_as_its_question() {
        let (answers, server) = (Answers::new(), Server::default());
        let find = async || answers.find("a", server.ask(), |_| GOOD).await.unwrap();
        let first = find().await;
        assert!(first.value == 1 && !first.cached);
        // A second of its five is gone since it was asked.
        tokio::time::advance(Duration::from_millis(3999)).await;
        let second = find().await;
        assert!(second.value == 1 && second.cached);
        tokio::time::advance(Duration::from_millis(1)).await;
        let third = find().await;
        assert!(third.value == 2 && !third.cached);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_meanwhile_waits_for_the_same_answer() {
        let (answers, server) = (Answers::new(), Server::default());
        let find = async || {
            answers
                .find("a", server.ask(), |_| GOOD)
                .await
                .unwrap()
                .value
        };
        assert_eq!(tokio::join!(find(), find(), find()), (1, 1, 1));
        assert_eq!(
            answers
                .find("b", server.ask(), |_| GOOD)
                .await
                .unwrap()
                .value,
            2
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_told_to_who_waits_and_to_nobody_later() {
        let answers = Answers::new();
        let asked = AtomicU32::new(0);
        let fail = async || {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err::<u32, _>(ApiError::Conflict)
        };
        let find = async || answers.find("a", fail(), |_| GOOD).await.err();
        assert_eq!(
            tokio::join!(find(), find()),
            (Some(ApiError::Conflict), Some(ApiError::Conflict))
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        find().await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn when_who_asked_goes_away_who_waits_asks() {
        let (answers, server) = (Answers::new(), Server::default());
        let find = async || {
            answers
                .find("a", server.ask(), |_| GOOD)
                .await
                .unwrap()
                .value
        };
        let hasty = async {
            let gone = tokio::time::timeout(Duration::from_millis(500), find()).await;
            assert!(gone.is_err());
        };
        let ((), value) = tokio::join!(hasty, find());
        assert_eq!(value, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_kept_than_may_be() {
        let answers = Answers::new();
        for key in 0..3 * KEPT {
            let found = answers.find(key, async { Ok(key) }, |_| GOOD).await;
            assert_eq!(found.unwrap().value, key);
            assert!(answers.questions.lock().unwrap().len() <= KEPT);
        }
        let last = answers.find(3 * KEPT - 1, async { Ok(0) }, |_| GOOD).await;
        assert!(last.unwrap().cached);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_gives_way_first() {
        let answers = Answers::new();
        let cached = async |key: usize, good_for| {
            let found = answers.find(key, async { Ok(key) }, |_| good_for).await;
            found.unwrap().cached
        };
        for key in 0..KEPT {
            let soon = Duration::from_secs(1);
            cached(key, if key < KEPT / 2 { soon } else { GOOD }).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        cached(KEPT, GOOD).await;
        for key in KEPT / 2..=KEPT {
            assert!(cached(key, GOOD).await, "{key}");
        }
        assert!(!cached(0, GOOD).await);
    }
}
