//! `attache-broker`: reads the settings, does one thing, says how it went.

use std::{io::Write, path::PathBuf, process::ExitCode};

use attache_broker::{
    config::{Config, SCHEMA},
    registry::KubernetesRecord,
    run,
};
use attache_envelope::name::ClusterName;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Keeps secrets sealed, and releases each to the one container that was granted it.
#[derive(Parser)]
#[command(name = "attache-broker", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(flatten)]
    WithSettings(Command),
    /// Say which pods of a cluster have volumes of ours: exit 0 if none has, else 8. Asks the API server alone.
    VolumesInUse {
        /// The cluster's API server; left out in a pod of that cluster.
        #[arg(long, value_name = "URL", requires = "credentials")]
        api_server: Option<String>,
        /// The folder with `token` and `ca.crt` for it.
        #[arg(long, value_name = "DIR", requires = "api_server")]
        credentials: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Command {
    /// Make a new store with its keys, its CA and its guard rails. Never touches one that is there.
    Init {
        /// Do nothing where a store is there already, and take a key file that is there as the new store's. For a container
        /// that runs before each start.
        #[arg(long)]
        if_empty: bool,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Make the store of a backup, as a new incarnation of it: with the broker stopped, where no store is. Raises an alarm in the
    /// audit log.
    Restore {
        /// The backup.
        file: PathBuf,
        /// Open and check it on a folder of its own, say what it holds, and change nothing: exit 0 if nothing was found, else 8.
        #[arg(long, conflicts_with = "new_log")]
        drill: bool,
        /// The store's audit log is lost: begin another one. What the lost one had is not shown by it.
        #[arg(long)]
        new_log: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Serve until told to stop.
    Serve {
        /// Accept a store that is older than what is known of it, and stands at this sequence: what came after is lost, and
        /// another incarnation of it begins. Raises an alarm in the audit log.
        #[arg(long, value_name = "SEQ")]
        accept_rollback_to: Option<u64>,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Make an operator: the first one through the running broker's admin socket, any one by recovery.
    #[command(subcommand)]
    Bootstrap(Bootstrap),
    /// Ask the running broker, over its admin socket, whether it serves: exit 0 if it does, else 8.
    Health {
        /// Only whether it answers: one that cannot release is alive.
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Have the running, sealed broker try what its settings name, over its admin socket: also when an operator sealed it, after
    /// which it does not by itself.
    Unseal(ConfigArg),
    /// Read the settings file and say what is wrong with it.
    CheckConfig(ConfigArg),
    /// Read every row of the store and say which are damaged: live through the admin socket, else on the store itself.
    CheckStore(ConfigArg),
}

#[derive(Subcommand)]
enum Bootstrap {
    /// Sign an operator's certificate request; the chain goes to standard output.
    Operator {
        /// The operator's name: the last part of their SPIFFE ID.
        name: String,
        /// The certificate request that `attache login --new` wrote (PEM); - for standard input.
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
        /// Sign in an operator although there are some: with the broker stopped, on the proof that the key file opens its
        /// store. Raises an alarm in the audit log.
        #[arg(long)]
        recover: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// A cluster that the new store knows from the beginning, by its API server; more with attache cluster add.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("source").args(["in_cluster", "api_server"]))]
struct ClusterArgs {
    /// A cluster that the new store knows from the beginning: its name. It must answer, or nothing is made.
    #[arg(long = "cluster", value_name = "NAME", requires_all = ["source", "audience"])]
    name: Option<ClusterName>,
    /// It is the one in which this pod runs, by the pod's service account.
    #[arg(long, requires = "name")]
    in_cluster: bool,
    /// Its API server: https://HOST:PORT.
    #[arg(long, value_name = "URL", requires_all = ["name", "credentials"])]
    api_server: Option<String>,
    /// The folder with ca.crt and token for the API server.
    #[arg(long, value_name = "DIR", requires = "api_server")]
    credentials: Option<PathBuf>,
    /// The issuer of its pods' tokens; the API server is asked when it is left out.
    #[arg(long, value_name = "URL", requires = "name")]
    issuer: Option<String>,
    /// The audience of its pods' tokens, as the CSIDriver object asks for it.
    #[arg(long, value_name = "AUD", requires = "name")]
    audience: Option<String>,
    /// The service account whose pods enroll the nodes that they run on.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "name")]
    enroll_service_account: Option<String>,
    /// The audience of the tokens that they show for it (attache-enroll, unless it is given).
    #[arg(long, value_name = "AUD", requires = "enroll_service_account")]
    enroll_audience: Option<String>,
}

impl ClusterArgs {
    fn new_cluster(&self) -> Option<run::NewCluster> {
        let or_empty = |given: &Option<String>| given.clone().unwrap_or_default();
        Some(run::NewCluster {
            name: self.name.clone()?,
            issuer: or_empty(&self.issuer),
            audience: or_empty(&self.audience),
            source: KubernetesRecord {
                api_server: or_empty(&self.api_server),
                credentials: self.credentials.clone().unwrap_or_default(),
                enroll_account: or_empty(&self.enroll_service_account),
                enroll_audience: or_empty(&self.enroll_audience),
            },
        })
    }
}

#[derive(clap::Args)]
struct ConfigArg {
    /// The settings file.
    #[arg(long, value_name = "FILE", default_value = "/etc/attache/broker.toml")]
    config: PathBuf,
}

impl Command {
    fn config(&self) -> &PathBuf {
        match self {
            Self::CheckConfig(arg) | Self::CheckStore(arg) | Self::Unseal(arg) => &arg.config,
            Self::Init { config, .. }
            | Self::Health { config, .. }
            | Self::Restore { config, .. }
            | Self::Serve { config, .. }
            | Self::Bootstrap(Bootstrap::Operator { config, .. }) => &config.config,
        }
    }
}

fn main() -> ExitCode {
    let help = format!("Settings (TOML; section.key):\n{}", SCHEMA.help());
    let matches = Args::command()
        .mut_subcommands(|command| command.after_long_help(help.clone()))
        .after_long_help(help.clone())
        .get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let done = match &args.verb {
        Verb::WithSettings(command) => carry_out(command),
        Verb::VolumesInUse {
            api_server,
            credentials,
        } => run::volumes_in_use(api_server.as_deref(), credentials.clone()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "attache-broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// 0: done; 1: failed; 8: a check ran and found something.
fn carry_out(command: &Command) -> anyhow::Result<ExitCode> {
    let file = command.config();
    let config = Config::read(file)
        .map_err(|e| anyhow::Error::new(e).context(file.display().to_string()))?;
    if matches!(command, Command::Init { .. } | Command::Restore { .. }) {
        run::start_log(&config)?;
    }
    match command {
        Command::Init {
            if_empty, cluster, ..
        } => run::init(&config, *if_empty, cluster.new_cluster()),
        Command::Restore {
            file,
            drill,
            new_log,
            ..
        } => {
            if *drill {
                run::drill(&config, file)
            } else {
                run::restore(&config, file, *new_log)
            }
        }
        Command::Serve {
            accept_rollback_to, ..
        } => run::serve(config, file, *accept_rollback_to),
        Command::Bootstrap(Bootstrap::Operator {
            name, csr, recover, ..
        }) => {
            if *recover {
                run::recover_operator(config, name, csr)
            } else {
                run::bootstrap_operator(&config, name, csr)
            }
        }
        Command::Health { live, .. } => run::health(&config, *live),
        Command::Unseal(_) => run::unseal(&config),
        Command::CheckConfig(_) => {
            run::check_config(&config)?;
            writeln!(std::io::stdout(), "{}: no fault found", file.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::CheckStore(_) => run::check_store(&config),
    }
}
