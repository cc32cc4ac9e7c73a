//! `attache-kms-pkcs11`: reads the settings, does one thing, says how it went.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use attache_arena::harden_process;
use attache_kms_pkcs11::{
    config::{Config, SCHEMA},
    service::{LIMIT, Service},
    token::TokenKey,
};
use attache_proto::kms::v2::key_management_service_server::KeyManagementServiceServer;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;

/// Encrypts and decrypts for a broker, by a key that cannot leave its PKCS#11 token.
#[derive(Parser)]
#[command(name = "attache-kms-pkcs11", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer on the socket until told to stop.
    Serve(ConfigArg),
    /// Make the key in the token: AES-256, sensitive, not extractable.
    CreateKey(ConfigArg),
    /// Read the settings, log in to the token, find the key, and say what is wrong.
    Check(ConfigArg),
}

#[derive(clap::Args)]
struct ConfigArg {
    /// The settings file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/attache/kms-pkcs11.toml"
    )]
    config: PathBuf,
}

fn main() -> ExitCode {
    let help = format!("Settings (TOML; section.key):\n{}", SCHEMA.help());
    let matches = Args::command()
        .mut_subcommands(|command| command.after_long_help(help.clone()))
        .after_long_help(help.clone())
        .get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match carry_out(&args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _told = writeln!(io::stderr(), "attache-kms-pkcs11: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: &Command) -> Result<()> {
    let (Command::Serve(arg) | Command::CreateKey(arg) | Command::Check(arg)) = command;
    let file = &arg.config;
    let config = Config::read(file).with_context(|| file.display().to_string())?;
    let filter = EnvFilter::try_new(&config.log).context("telemetry.log is no log filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    harden_process()?;
    let key = TokenKey::open(config.token.clone())?;
    let mut out = io::stdout();
    match command {
        Command::Check(_) => writeln!(out, "{}: no fault found", key.id()?)?,
        Command::CreateKey(_) => {
            key.create()?;
            writeln!(out, "{}: made", key.id()?)?;
        }
        Command::Serve(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let served = runtime.block_on(serve(&config.socket, key));
            // A call that hangs in the module is not waited for.
            runtime.shutdown_background();
            served?;
        }
    }
    Ok(())
}

async fn serve(socket: &Path, key: TokenKey) -> Result<()> {
    let (mut term, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    // Before the token is asked anything: a process that is one too many uses up no try of the PIN.
    let listener =
        bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    // A token that is away now may come: what is wrong with it is told to whoever asks.
    match key.id() {
        Ok(id) => tracing::info!(key = id, "the token is there"),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "the token cannot be used yet");
        }
    }
    let service = Service::new(key);
    let (hangs, stop) = (service.hangs(), Arc::new(AtomicBool::new(false)));
    let hung = Arc::clone(&stop);
    let stopped = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            () = hangs.notified() => hung.store(true, Ordering::Relaxed),
        }
    };
    tracing::info!(socket = %socket.display(), "serving");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Server::builder()
        .concurrency_limit_per_connection(4)
        .add_service(KeyManagementServiceServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped)
        .await?;
    let _gone = fs::remove_file(socket);
    if stop.load(Ordering::Relaxed) {
        bail!("the PKCS#11 module did not come back from a call within {LIMIT:?}");
    }
    Ok(())
}

/// A socket for this process's own user alone. One that a process of before left is taken away; nothing else is.
fn bind(path: &Path) -> Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!("another process listens there");
            }
            fs::remove_file(path)?;
        }
        Ok(_) => bail!("something is there that is no socket: name another path (socket)"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // Closed from its first moment on, not only once its mode is set.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
