//! A backup beside `cp` of the store's file: how many bytes a second either writes, in turn, and what the broker's memory does.
//!
//! Both end with what they wrote on the disk. The backup is the command line's: read, sent, hashed twice, written, read again
//! and verified. Rates are of the bytes that each wrote. The store's file may hold pages that no row is in, which `cp` copies too.
#![expect(clippy::print_stdout, reason = "prints its figures")]

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use attache_tests::{
    Bed,
    fill::{commit_puts, seal_puts},
    measure, wire,
};

/// Secrets of 1 KiB.
const SMALL: u64 = 20_000;
/// Secrets of 1 MiB.
const LARGE: usize = 48;
/// Each is run so often.
const RUNS: usize = 3;

fn main() -> Result<()> {
    println!("backup beside cp: {}", measure::machine()?);
    let bed = Bed::signed_in()?;
    bed.attache_ok(&["keyspace", "create", "payments"])?;
    fill(&bed)?;
    let broker = bed.broker.as_ref().context("it runs")?.pid();
    let store = bed.store_dir().join("store.redb");
    for _ in 0..RUNS {
        let before = measure::anonymous_kib(broker)?;
        let (copy, copied) = written(&bed.dir.join("copy"), |to| {
            ensure!(Command::new("cp").arg(&store).arg(to).status()?.success());
            Ok(())
        })?;
        let (backup, saved) = written(&bed.dir.join("backup"), |to| {
            let to = to.to_str().context("a path of text")?;
            bed.attache_ok(&["backup", "create", to, "--quiet"])?;
            Ok(())
        })?;
        let after = measure::anonymous_kib(broker)?;
        println!(
            "  cp {:>7.1} MiB at {:>7.1} MiB/s   backup {:>7.1} MiB at {:>7.1} MiB/s   {:.0} % of cp   broker {before} -> {after} KiB",
            mib(copied),
            rate(copied, copy),
            mib(saved),
            rate(saved, backup),
            100.0 * rate(saved, backup) / rate(copied, copy)
        );
    }
    Ok(())
}

/// Puts of both sizes.
fn fill(bed: &Bed) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let channel = wire::operator(bed)?;
        let puts = seal_puts(channel.clone(), "small", SMALL).await?;
        commit_puts(channel, 64, puts).await?;
        anyhow::Ok(())
    })?;
    let value = bed.dir.join("etc/large");
    fs::write(&value, vec![7_u8; 1024 * 1024])?;
    let field = format!("value=@{}", value.display());
    for number in 0..LARGE {
        let path = format!("payments/large-{number}");
        bed.attache_ok(&["secret", "put", &path, &field, "--quiet"])?;
    }
    Ok(())
}

/// How long it takes until the file is there and on the disk, and how large it is; the file is taken away.
fn written(to: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<(Duration, u64)> {
    let from = Instant::now();
    write(to)?;
    File::open(to)?.sync_all()?;
    let took = from.elapsed();
    let size = fs::metadata(to)?.len();
    fs::remove_file(to)?;
    Ok((took, size))
}

#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn rate(bytes: u64, took: Duration) -> f64 {
    mib(bytes) / took.as_secs_f64()
}
