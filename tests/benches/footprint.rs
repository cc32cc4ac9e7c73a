//! What the processes weigh when they idle and with a hundred mounts, and how soon a broker with a million secrets is ready.
//!
//! `ATTACHE_BENCH_SECRETS=N` fills with N in place of a million; a million take minutes.
#![expect(clippy::print_stdout, reason = "prints its figures")]

use std::time::Instant;

use anyhow::{Context, Result};
use attache_tests::{
    Scene,
    bed::NODE,
    fill::{commit_puts, seal_puts},
    measure::{self, anonymous_kib, proportional_kib, resident_kib},
    pod::Pod,
    process::{Process, children},
    wire,
};

const MOUNTS: usize = 100;
/// Secrets that are sealed ahead.
const CHUNK: u64 = 20_000;

fn main() -> Result<()> {
    println!("footprint: {}", measure::machine()?);
    memory()?;
    ready()
}

/// Resident memory: idle, with mounts, after work.
fn memory() -> Result<()> {
    let scene = Scene::start()?;
    let broker = scene
        .bed
        .broker
        .as_ref()
        .map(Process::pid)
        .context("the broker runs")?;
    let serve = scene
        .bed
        .plugin
        .as_ref()
        .map(Process::pid)
        .context("the plugin runs")?;
    print_memory("broker, idle", &[broker])?;
    let halves = children(serve)?;
    print_memory("agent and mounter, idle", &halves)?;
    print_memory("their supervisor", &[serve])?;
    for number in 0..MOUNTS {
        let pod = Pod::new("shop", &format!("m-{number}"), "web", NODE, "payments/db");
        scene.publish(&pod)?;
    }
    print_memory(&format!("agent and mounter, {MOUNTS} mounts"), &halves)?;
    print_memory(&format!("broker, {MOUNTS} releases later"), &[broker])
}

fn print_memory(what: &str, pids: &[u32]) -> Result<()> {
    let sum = |of: fn(u32) -> Result<u64>| pids.iter().map(|pid| of(*pid)).sum::<Result<u64>>();
    println!(
        "  {what:<36}{:>6.1} MiB resident, {:>5.1} MiB with shared pages by share, {:>4.1} MiB anonymous",
        sum(resident_kib)? as f64 / 1024.0,
        sum(proportional_kib)? as f64 / 1024.0,
        sum(anonymous_kib)? as f64 / 1024.0
    );
    Ok(())
}

/// From start to ready with everything in the store, after a stop and after kill -9.
fn ready() -> Result<()> {
    let secrets: u64 = std::env::var("ATTACHE_BENCH_SECRETS")
        .map_or(Ok(1_000_000), |it| it.parse())
        .context("ATTACHE_BENCH_SECRETS is a number")?;
    let mut scene = Scene::start()?;
    let channel = {
        let _guard = scene.runtime.enter();
        wire::operator(&scene.bed)?
    };
    let from = Instant::now();
    for chunk in 0..secrets.div_ceil(CHUNK) {
        let (channel, prefix) = (channel.clone(), format!("s-{chunk}"));
        scene.runtime.block_on(async {
            let puts = CHUNK.min(secrets - chunk * CHUNK);
            let sealed = seal_puts(channel.clone(), &prefix, puts).await?;
            commit_puts(channel, 64, sealed).await
        })?;
    }
    println!("  {secrets} secrets were put in {:.0?}", from.elapsed());
    for (what, kill) in [("a stop", false), ("kill -9", true), ("kill -9", true)] {
        let broker = scene.bed.broker.take().context("the broker runs")?;
        if kill {
            broker.kill()?;
        } else {
            broker.stop()?;
        }
        let from = Instant::now();
        scene.bed.start_broker()?;
        let took = from.elapsed();
        println!("  ready with {secrets} secrets after {what}: {took:.0?}");
    }
    let broker = scene
        .bed
        .broker
        .as_ref()
        .map(Process::pid)
        .context("the broker runs")?;
    print_memory(&format!("broker, {secrets} secrets"), &[broker])
}
