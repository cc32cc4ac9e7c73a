//! kill -9 at random instants: how often, when, and how a run is repeated.

use std::{
    collections::VecDeque,
    io::{self, Write},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// How many kills a crash test makes.
pub const ROUNDS: u32 = 200;
/// At least so many of them must hit an operation that is under way, or the test proved nothing.
pub const MID_HITS: u32 = 60;
/// The environment variable that repeats a run: the seed that it printed.
pub const SEED: &str = "ATTACHE_SEED";
/// So many runs of an operation say how long it takes.
const RUNS: usize = 5;

/// Draws instants from a seed (xorshift64*): what matters is that a run can be repeated.
#[derive(Debug)]
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// A generator with the seed of [`SEED`], or with a new one. Prints it.
    ///
    /// # Errors
    /// When the variable is not a number above 0.
    pub fn new() -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().ok().filter(|seed| *seed != 0),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                Some(now.as_secs() << 20 | u64::from(now.subsec_micros()))
            }
        };
        let seed = seed.with_context(|| format!("{SEED} must be a number above 0"))?;
        say(&format!("{SEED}={seed}"));
        Ok(Self { seed, state: seed })
    }

    /// What a failure must name.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sleeps until an instant of an operation that begins now: uniform over its length.
    pub fn wait(&mut self, length: Duration) {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        thread::sleep(Duration::from_nanos(self.below(nanos)));
    }

    /// A number below `limit`; 0 below 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        drawn % limit.max(1)
    }
}

/// Says something on standard error itself, which the test runner does not keep back: what the kills of a run met is to
/// be seen when it passes, too.
pub fn say(text: &str) {
    // Who closed standard error does not want to know.
    let _unheard = writeln!(io::stderr(), "{text}");
}

/// How long an operation takes at present: the median of its last runs, so that a machine whose load changes is followed.
#[derive(Debug, Default)]
pub struct Length(VecDeque<Duration>);

impl Length {
    /// Takes another run into account.
    pub fn add(&mut self, took: Duration) {
        self.0.truncate(RUNS - 1);
        self.0.push_front(took);
    }

    /// Whether there have been enough runs to say.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.len() == RUNS
    }

    /// The median.
    #[must_use]
    pub fn now(&self) -> Duration {
        let mut runs: Vec<Duration> = self.0.iter().copied().collect();
        runs.sort_unstable();
        runs.get(runs.len() / 2).copied().unwrap_or_default()
    }
}
