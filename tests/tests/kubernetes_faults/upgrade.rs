//! The chart is upgraded, rolled back and uninstalled while pods run.

#![expect(
    clippy::print_stdout,
    reason = "a scenario tells how long things took, and reads objects of the API server"
)]

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use attache_tests::kubernetes::{installation::CHART_AND_VALUES, stage::installation};

/// An upgrade of the chart that is rolled back when dropped.
pub(crate) struct Upgrade {
    stands: bool,
}

impl Upgrade {
    /// Upgrades to a chart, with these values more, and waits until everything is ready.
    pub(crate) fn to(chart: &Path, values: &[&str]) -> Result<Self> {
        let chart = chart.to_str().context("a path of text")?;
        let own = CHART_AND_VALUES.get(1..).unwrap_or_default();
        let args = ["upgrade", "attache", chart, "--wait", "--timeout=3m"];
        let upgrade = Self { stands: true };
        let from = Instant::now();
        installation().helm_ok(&[&args, own, values].concat())?;
        println!("helm upgrade: {:?}", from.elapsed());
        Ok(upgrade)
    }

    /// Rolls it back, and waits until everything is ready.
    pub(crate) fn roll_back(mut self) -> Result<()> {
        self.stands = false;
        roll_back()
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        if self.stands {
            let _ = roll_back();
        }
    }
}

fn roll_back() -> Result<()> {
    let from = Instant::now();
    installation().helm_ok(&["rollback", "attache", "--wait", "--timeout=3m"])?;
    println!("helm rollback: {:?}", from.elapsed());
    Ok(())
}
