//! `muster`: one binary for nodes, holders and people.

mod announcing;
mod config;
mod data_directory;
mod demo;
mod executing;
mod joining;
mod limits;
mod logging;
mod loops;
mod node;
mod offline;
mod raft_transport;
mod removal;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A cluster for AI experiments out of your own machines, with no central server.
#[derive(Debug, Parser)]
#[command(name = "muster", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    globals: cli::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this machine's node: make a cluster, or join one with --join.
    Up(Box<config::UpFlags>),
    /// Make a new cluster of one machine out of a backup. For an empty data directory; no node runs in it.
    Restore(offline::RestoreFlags),
    /// Go on without the majority of the voters, which is lost for good. For a stopped voter; without --force it only
    /// says what it holds and what would be lost.
    Recover(offline::RecoverFlags),
    /// Start three nodes on this machine, run a real experiment, kill the leader, and watch it go on.
    Demo(demo::DemoFlags),
    /// (internal) Hold one attempt.
    #[command(hide = true)]
    HoldAttempt {
        /// Directory of the attempt.
        directory: PathBuf,
    },
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    // The holder is small: no runtime, no argument parser, decided before anything else is set up.
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == "hold-attempt")
        && let Some(directory) = arguments.next()
    {
        return executor::hold(directory.as_ref());
    }
    let arguments = Arguments::parse();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match arguments.command {
        Command::Up(flags) => report(runtime.block_on(up(&flags))),
        Command::Restore(flags) => report(runtime.block_on(Box::pin(offline::restore(flags)))),
        Command::Recover(flags) => report(runtime.block_on(Box::pin(offline::recover(flags)))),
        Command::Demo(flags) => runtime
            .block_on(demo::run(&flags))
            .unwrap_or_else(|error| fail(&error)),
        Command::HoldAttempt { directory } => executor::hold(&directory),
        Command::Client(command) => runtime.block_on(cli::execute(command, arguments.globals)),
    }
}

/// Two worker threads: a node mostly waits, and each thread costs memory.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

async fn up(flags: &config::UpFlags) -> anyhow::Result<()> {
    let config = config::Config::load(flags)?;
    logging::start(&config.log_filter)?;
    limits::raise_open_files();
    Box::pin(node::run(config)).await
}

fn report(end: anyhow::Result<()>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Nowhere is left to say that standard error is closed.
    drop(writeln!(std::io::stderr(), "error: {error:#}"));
    ExitCode::FAILURE
}
