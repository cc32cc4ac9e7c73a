//! `attache-node-plugin`: reads the settings, does one thing, says how it went.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use attache_node_plugin::{
    config::{Config, SCHEMA},
    run,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Carries released secrets into the pods of this node, as a CSI driver.
#[derive(Parser)]
#[command(name = "attache-node-plugin", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start mounter and agent, and keep them up until told to stop.
    Serve(ConfigArg),
    /// Ask the running agent, as its own user, whether it is ready: exit 0 if it is, else 8.
    Health {
        /// Only whether it answers.
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Read the settings file and say what is wrong with it.
    CheckConfig(ConfigArg),
    /// The privileged half; `serve`, or a pod, starts it.
    #[command(hide = true, name = run::MOUNTER)]
    Mounter(ConfigArg),
    /// The unprivileged half; `serve`, or a pod, starts it.
    #[command(hide = true, name = run::AGENT)]
    Agent(ConfigArg),
}

#[derive(clap::Args)]
struct ConfigArg {
    /// The settings file; the agent's user must be able to read it.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/attache/node-plugin.toml"
    )]
    config: PathBuf,
    /// This node's name, in place of node.node_name: for a file that many nodes share.
    #[arg(long, value_name = "NAME", env = "ATTACHE_NODE_NAME")]
    node_name: Option<String>,
}

impl Command {
    fn arg(&self) -> &ConfigArg {
        match self {
            Self::Serve(arg) | Self::CheckConfig(arg) | Self::Mounter(arg) | Self::Agent(arg) => {
                arg
            }
            Self::Health { config, .. } => config,
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
    match carry_out(&args.command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _told = writeln!(std::io::stderr(), "attache-node-plugin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// 0: done; 1: failed; 8: a check ran and found something.
fn carry_out(command: &Command) -> anyhow::Result<ExitCode> {
    let ConfigArg {
        config: file,
        node_name,
    } = command.arg();
    let config =
        Config::read(file, node_name.as_deref()).with_context(|| file.display().to_string())?;
    match command {
        Command::Serve(_) => run::serve(&config, file)?,
        Command::Mounter(_) => run::mounter(&config, file)?,
        Command::Agent(_) => run::agent(&config, file)?,
        Command::Health { live, .. } => return Ok(run::health(&config, *live)?),
        Command::CheckConfig(_) => {
            run::check(&config)?;
            writeln!(std::io::stdout(), "{}: no fault found", file.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
