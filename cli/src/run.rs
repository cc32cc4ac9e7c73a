//! From the process's arguments to its exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use clap::Parser;

use crate::args::Cli;
use crate::clap_error::{self, Refused};
use crate::command::{self, Shell};
use crate::environment::Environment;
use crate::failure::{Exit, Failure};
use crate::output::{self, Console, Report};

/// Runs one command line and answers how it ended.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>, environment: Environment) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refused(&clap_error::explain(&error, &args)),
    };
    let console = console(&cli, &environment);
    // Values and keys pass through this process; where the kernel refuses, it is as exposed as any other.
    if let Err(error) = attache_arena::harden_process() {
        console.hint(&format!("warning: this process can be dumped: {error}"));
    }
    let shell = Shell {
        environment,
        global: cli.global.clone(),
        console,
    };
    let ended =
        carry_out(cli, &shell).and_then(|report| console.answer(&report).map(|()| report.exit));
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            say(&failure.to_string());
            failure.exit
        }
    }
}

fn carry_out(cli: Cli, shell: &Shell) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, "nothing was done").caused_by(&error))?;
    let ended = runtime.block_on(async {
        tokio::select! {
            // The command comes first: until it waits for the network, while it asks its user, Ctrl-C ends the process.
            biased;
            ended = command::carry_out(cli, shell) => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Interrupted, "interrupted").because("a change that was sent may have been made")),
        }
    });
    runtime.shutdown_background();
    ended
}

fn console(cli: &Cli, environment: &Environment) -> Console {
    let terminal = io::stdout().is_terminal();
    Console {
        format: cli.global.output,
        quiet: cli.global.quiet,
        color: terminal && !cli.global.no_color && !environment.no_color,
        wide: if terminal {
            comfy_table::Table::new().width()
        } else {
            None
        },
    }
}

fn refused(refused: &Refused) -> Exit {
    match refused {
        // Help that was asked for; a reader that is gone is no failure.
        Refused::Shown(text) => match output::print(text.as_bytes()) {
            Ok(_) => Exit::Done,
            Err(failure) => failure.exit,
        },
        Refused::Failure(failure) => {
            say(&failure.to_string());
            failure.exit
        }
    }
}

fn say(text: &str) {
    // Nobody may read standard error; the exit code says it too.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
