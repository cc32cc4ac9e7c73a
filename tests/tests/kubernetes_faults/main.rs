//! Every claim about Kubernetes that needs a cluster for itself, one scenario after another: a part of it, or of the product,
//! is away, or its speed counts.

mod away;
mod loss;
mod outage;
mod plugin;
mod publish;
mod reboot;
mod sixty;
mod startup_taint;
mod upgrade;
mod volumes;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whoever holds it has the cluster for itself. A scenario puts back what it took away, also when it fails.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
