//! What the benches measure with: bounded loads, latencies, processor time and memory of other processes, floors.
//!
//! A figure is worth something only beside a floor of the same run on the same machine: an empty RPC, a bare mount, a
//! bare `fdatasync`. [`Run::row`] prints both as one line.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// The outcome of a bounded load.
#[derive(Debug, Clone)]
pub struct Run {
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Of each call, ascending.
    latencies: Vec<Duration>,
}

/// Makes `total` calls, `in_flight` at a time; `call` gets the number of the call. Must run inside a tokio runtime.
///
/// # Errors
/// The first error of a call.
///
/// # Panics
/// When a call panics.
pub async fn load<F, T>(in_flight: u64, total: u64, call: F) -> Result<Run>
where
    F: Fn(u64) -> T + Send + Sync + 'static,
    T: Future<Output = Result<()>> + Send,
{
    let call = Arc::new(call);
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (call, next) = (Arc::clone(&call), Arc::clone(&next));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return anyhow::Ok(latencies);
                    }
                    let from = Instant::now();
                    call(number).await?;
                    latencies.push(from.elapsed());
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await??);
    }
    let elapsed = begun.elapsed();
    latencies.sort_unstable();
    Ok(Run { elapsed, latencies })
}

impl Run {
    /// The outcome of calls that were made one after the other.
    #[must_use]
    pub fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self {
            elapsed: latencies.iter().sum(),
            latencies,
        }
    }

    /// Several runs as one: their times add up.
    #[must_use]
    pub fn merge(runs: Vec<Self>) -> Self {
        let elapsed = runs.iter().map(|run| run.elapsed).sum();
        let mut latencies: Vec<_> = runs.into_iter().flat_map(|run| run.latencies).collect();
        latencies.sort_unstable();
        Self { elapsed, latencies }
    }

    /// Calls a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this many percent of the calls did not exceed, in microseconds.
    #[must_use]
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let index = self.latencies.len().saturating_sub(1) * percent / 100;
        self.latencies
            .get(index)
            .map_or(0.0, |it| it.as_secs_f64() * 1e6)
    }

    /// One line: rate, p50, p99.
    #[must_use]
    pub fn row(&self) -> String {
        format!(
            "{:>8.0}/s   p50 {:>7.0} us   p99 {:>7.0} us",
            self.rate(),
            self.percentile_us(50),
            self.percentile_us(99)
        )
    }

    /// Processor time a call, in microseconds, of what a process used between two readings.
    #[must_use]
    pub fn cpu_us(&self, before: Duration, after: Duration) -> f64 {
        after.saturating_sub(before).as_secs_f64() * 1e6 / self.latencies.len() as f64
    }
}

/// The processor time that a process has used so far: user and system, its threads that ended among it.
///
/// # Errors
/// When the process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): fields 14 and 15, counted behind the name's last parenthesis, in ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(')').context("a stat line has a name")?;
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(
        ticks * 1000 / rustix::param::clock_ticks_per_second(),
    ))
}

/// Resident memory of a process, in KiB: every page that it has mapped, whoever else has it too.
///
/// # Errors
/// When the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    field_kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Resident anonymous memory of a process, in KiB: what no file backs.
///
/// # Errors
/// When the process is gone.
pub fn anonymous_kib(pid: u32) -> Result<u64> {
    field_kib(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Proportional memory of a process, in KiB: a page that n processes map counts as a n-th. Of several processes of one
/// program the sum is what they take together.
///
/// # Errors
/// When the process is gone.
pub fn proportional_kib(pid: u32) -> Result<u64> {
    field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field_kib(file: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key} in {file}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The floor of everything durable: `times` writes of 1 KiB into a file that is filled already, each with its fdatasync.
///
/// # Errors
/// When the disk fails.
pub fn fdatasync(folder: &Path, times: usize) -> Result<Run> {
    const RECORD: usize = 1024;
    let path = folder.join("fdatasync-floor");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; RECORD * times], 0)?;
    file.sync_all()?;
    let mut latencies = Vec::with_capacity(times);
    for number in 0..times {
        let from = Instant::now();
        file.write_all_at(&[7; RECORD], (number * RECORD) as u64)?;
        file.sync_data()?;
        latencies.push(from.elapsed());
    }
    fs::remove_file(path)?;
    Ok(Run::of(latencies))
}

/// What else ran on the machine while a bench did.
///
/// # Errors
/// When /proc cannot be read.
pub fn machine() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{cores} cores, kernel {}, load average {}",
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    ))
}
