//! `attache-broker serve`: one process, whose broker is sealed or open, until it is told to stop.
//!
//! ```text
//! store locked -> own openers -- one opens a slot --> open -> run ... (stop | an operator's seal)
//!        |            |                                 ^                         |
//!        |            +--- none does --> sealed --------+ <-----------------------+
//!        +-- an operator's seal -----------^  (own openers again, but not after an operator's seal; attache broker unseal)
//! ```
//! An operator's seal is a file beside the store, so that a restart finds it.
//! The store's lock and the sockets of [`Sockets`] are the process's own. All of an open broker runs on a runtime of its own,
//! which ends with it: no task is left over that could hold a key. It counts as sealed when the arena holds no key any more,
//! and the process ends if that does not come about.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use attache_arena::Arena;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    block_on, descriptors, incarnation, open,
    sealed::{Left, stay_sealed},
    serve::{Broker, End},
    sockets::Sockets,
    telemetry,
};
use crate::{config::Config, keys::Keys, metrics::Metrics, seal::OperatorSeal, store::RedbStore};

/// How long the runtime of an open broker has for what blocks a thread, once all else of it has ended.
const BLOCKING: Duration = Duration::from_secs(10);
/// How long the last keys have after that; the threads of log and ledger give theirs back when they end.
const WIPING: Duration = Duration::from_secs(10);
/// Between two looks at the arena.
const LOOK: Duration = Duration::from_millis(5);

/// Serves until told to stop. `accept_rollback_to`: the sequence at which a store stands that is older than what is known
/// of it, and is accepted all the same.
///
/// # Errors
/// When anything that serving stands on cannot be opened, or fails for good. That nothing opens a slot is no such thing: then
/// the broker is sealed.
pub fn serve(config: Config, file: &Path, accept_rollback_to: Option<u64>) -> Result<ExitCode> {
    let filter = telemetry::start(&config.telemetry)?;
    descriptors::provide(&config.limits)?;
    let settings = Reloadable {
        file: file.to_owned(),
        filter,
    };
    block_on(async {
        // From here on: whoever finds it live may stop it.
        let signals = Signals::take()?;
        if let Some(seq) = accept_rollback_to {
            let note = config.store.operator_seal();
            if OperatorSeal::read(&note).is_there() {
                bail!(
                    "an operator sealed the broker, and a store that was rolled back is accepted with its keys: if the seal is to \
                     end, remove {} and start again",
                    note.display()
                );
            }
            incarnation::accept_rollback(&config, seq).await?;
        }
        let told = Told { settings, signals };
        Lifetime::begin(config)?.live(told).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What SIGHUP reads again.
pub(super) struct Reloadable {
    pub(super) file: PathBuf,
    pub(super) filter: telemetry::Filter,
}

/// What a process is told by, and changes at a word.
struct Told {
    settings: Reloadable,
    signals: Signals,
}

/// What stays through all states.
pub(super) struct Lifetime {
    pub(super) config: Arc<Config>,
    pub(super) arena: Arena,
    pub(super) store: Arc<RedbStore>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) metrics: Metrics,
}

impl Lifetime {
    /// Locks the store, and then binds: another broker's socket is not taken away.
    fn begin(config: Config) -> Result<Self> {
        let arena = open::arena(&config)?;
        let store = Arc::new(RedbStore::open(&config.store.store())?);
        let sockets = Arc::new(Sockets::bind(&config.listen)?);
        Ok(Self {
            config: Arc::new(config),
            arena,
            store,
            sockets,
            metrics: Metrics::default(),
        })
    }

    async fn live(&self, mut told: Told) -> Result<()> {
        let note = self.config.store.operator_seal();
        let mut by_operator = OperatorSeal::read(&note);
        let mut opened = if by_operator.is_there() {
            tracing::warn!(
                "sealed {}: what the settings name is not tried. Open it with attache broker unseal, or, on this machine, have it \
                 try that with attache-broker unseal. The seal is in force while its note {} is there at a start",
                by_operator.told(),
                note.display()
            );
            None
        } else {
            self.open_by_settings().await?
        };
        loop {
            let keys = match opened.take() {
                Some(keys) => keys,
                None => match stay_sealed(self, &by_operator, &mut told.signals).await {
                    Left::Opened(keys) => keys,
                    Left::Stopped => return Ok(()),
                },
            };
            let end;
            (end, told) = self.run(keys, told, by_operator).await?;
            match end {
                End::Stopped => return Ok(()),
                End::Sealed => by_operator = OperatorSeal::read(&note).or_unknown(),
            }
        }
    }

    /// The keys, by what the settings name; none where that opens nothing.
    async fn open_by_settings(&self) -> Result<Option<Keys>> {
        let openers = &self.config.keys.openers;
        match Keys::open_by(&self.arena, self.store.as_ref(), openers).await {
            Ok(keys) => Ok(Some(keys)),
            Err(error) if error.lacks_an_opener() => {
                let error = crate::causes::with_causes(&error);
                tracing::warn!(%error, "nothing that the settings name opens the store");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Runs an open broker to its end, and sees that no key is left.
    async fn run(
        &self,
        keys: Keys,
        mut told: Told,
        by_operator: OperatorSeal,
    ) -> Result<(End, Told)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let (config, store) = (Arc::clone(&self.config), Arc::clone(&self.store));
        let (sockets, metrics) = (Arc::clone(&self.sockets), self.metrics.clone());
        let running = runtime.spawn(async move {
            let broker = Broker::assemble(config, store, Arc::new(keys), metrics).await?;
            broker.end_operator_seal(&by_operator).await?;
            let Told { settings, signals } = &mut told;
            let end = broker.run(&sockets, settings, signals).await?;
            anyhow::Ok((end, told))
        });
        let ended = running.await;
        let shut = tokio::task::spawn_blocking(move || end_of(runtime)).await;
        let (end, told) = ended.context("the broker broke off")??;
        shut.context("the broker's runtime did not end")?;
        if end == End::Sealed {
            self.wiped().await?;
        }
        Ok((end, told))
    }

    /// Waits until the arena holds no key.
    async fn wiped(&self) -> Result<()> {
        let begun = Instant::now();
        while self.arena.keys() > 0 {
            if begun.elapsed() > WIPING {
                bail!(
                    "{} keys are still held after the seal: the process ends, which takes them away. This is a defect",
                    self.arena.keys()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Ends a runtime: its tasks are dropped, its threads end.
fn end_of(runtime: Runtime) {
    runtime.shutdown_timeout(BLOCKING);
}

/// What a serving broker is told by. Once taken, a signal waits until it is looked at.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signalled {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

impl Signals {
    fn take() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn told(&mut self) -> Signalled {
        tokio::select! {
            _ = self.terminate.recv() => Signalled::Stop,
            _ = self.interrupt.recv() => Signalled::Stop,
            _ = self.hangup.recv() => Signalled::Reload,
        }
    }
}
