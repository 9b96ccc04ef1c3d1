//! The commands of the client, one file each.

mod accept;
mod again;
mod artifact;
mod audit;
mod backup;
mod compare;
mod get;
mod logs;
mod ls;
mod metrics;
mod node;
mod nodes;
mod queue;
mod run;
mod show;
mod steer;
mod stop;
mod token;
mod top;
mod usage;
mod user;
mod why;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use serde::de::DeserializeOwned;

use crate::client::{Client, Request, parse};
use crate::error::Error;
use crate::globals::Globals;
use crate::output::Look;
use crate::retry::while_unavailable;
use crate::surroundings::Surroundings;
use crate::terminal::Terminal;

/// Names a request, so that a repeated one is the same.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What the id of a group begins with.
const GROUP_PREFIX: &str = "g-";
/// How long a reading command waits for a leader: several elections.
const READ_WINDOW: Duration = Duration::from_secs(5);
/// How long a writing command waits for a leader.
const WRITE_WINDOW: Duration = Duration::from_secs(15);
/// What a shell returns for a program that SIGPIPE ended.
const CLOSED_OUTPUT: u8 = 128 + 13;
/// What a shell returns for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 128 + 2;

/// The commands that talk to a node.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Submit an experiment: a command, with the code of this directory
    Run(Box<run::Arguments>),
    /// List experiments
    Ls(ls::Arguments),
    /// Show everything about one experiment, or the table of a group
    Show(show::Arguments),
    /// Show what an experiment used: processors, memory, disk, GPUs and network over time
    Usage(usage::Arguments),
    /// Show what an experiment reported of itself: its metrics, or one of them over steps or time
    Metrics(metrics::Arguments),
    /// Print the output of an experiment
    Logs(logs::Arguments),
    /// Fetch what an experiment left: the paths of `run --output`
    Get(get::Arguments),
    /// Add a file to what a running experiment leaves: a plot, a table, a text
    Artifact(artifact::Arguments),
    /// Submit an experiment that is another with changes, with the same code
    Clone(Box<again::Clone>),
    /// Submit an experiment exactly as it was, once more
    Rerun(again::Rerun),
    /// Show what differs between experiments: code, parameters, machines, metrics
    Compare(compare::Arguments),
    /// Stop experiments or groups of them
    Stop(stop::Arguments),
    /// Keep a waiting experiment from being placed
    Hold(steer::Hold),
    /// Let a held experiment be placed again
    Release(steer::Release),
    /// Change the priority of a waiting experiment
    Priority(steer::Priority),
    /// Take a success that came after its attempt was given up for the result
    Accept(accept::Arguments),
    /// List the nodes of the cluster
    Nodes,
    /// Show what every machine does now: processors, memory, disks, network, GPUs and who uses them
    Top(top::Arguments),
    /// Drain, label, reserve, remove, promote and demote nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Say why an experiment waits, runs where it runs, or ended
    Why(why::Arguments),
    /// List, make, pause and limit queues; move and reorder what waits in them
    #[command(subcommand)]
    Queue(queue::Command),
    /// Make, list and revoke tokens that let machines join
    #[command(subcommand)]
    Token(token::Command),
    /// Say who you are; let people in over TCP, list and end their tokens
    User(user::Arguments),
    /// Print what was done in the cluster, by whom; check that nobody changed it
    #[command(visible_alias = "ledger")]
    Audit(audit::Arguments),
    /// Write a copy of the cluster's state and history to a file; check such a file
    Backup(backup::Arguments),
}

/// What every command works with.
pub(crate) struct Session {
    client: Client,
    terminal: Terminal,
    surroundings: Surroundings,
}

/// Runs a command to its end and says how it went: 0, 1 after an error (which it printed), or, when it followed an
/// experiment, the experiment's exit code.
pub async fn execute(command: Command, globals: Globals) -> ExitCode {
    let surroundings = Surroundings::read();
    let terminal = Terminal::new(&globals, &surroundings);
    if let Command::Audit(arguments) = &command
        && let Some(file) = arguments.offline()
    {
        let report = audit::verify_file(file).and_then(|report| terminal.print(&report));
        return code_of(report.map(|()| ExitCode::SUCCESS), &terminal);
    }
    if let Command::Backup(arguments) = &command
        && let Some(file) = arguments.offline()
    {
        let report = backup::verify(file, &terminal);
        return code_of(report.map(|()| ExitCode::SUCCESS), &terminal);
    }
    let done = match Client::locate(&globals, &surroundings) {
        Ok(client) => {
            let session = Session {
                client,
                terminal,
                surroundings,
            };
            dispatch(command, &session).await
        }
        Err(error) => Err(error),
    };
    code_of(done, &terminal)
}

fn code_of(done: Result<ExitCode, Error>, terminal: &Terminal) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) if error.is_closed_output() => ExitCode::from(CLOSED_OUTPUT),
        Err(error) => {
            terminal.error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command, session: &Session) -> Result<ExitCode, Error> {
    match command {
        Command::Run(arguments) => return Box::pin(run::run(*arguments, session)).await,
        Command::Clone(arguments) => {
            return Box::pin(again::make_clone(&arguments, session)).await;
        }
        Command::Rerun(arguments) => return Box::pin(again::rerun(&arguments, session)).await,
        Command::Logs(arguments) => return logs::run(arguments, session).await,
        Command::Stop(arguments) => return stop::run(&arguments, session).await,
        Command::Ls(arguments) => ls::run(&arguments, session).await?,
        Command::Show(arguments) => show::run(&arguments, session).await?,
        Command::Get(arguments) => get::run(&arguments, session).await?,
        Command::Artifact(arguments) => artifact::run(&arguments, session).await?,
        Command::Compare(arguments) => compare::run(&arguments, session).await?,
        Command::Hold(arguments) => steer::hold(&arguments, session).await?,
        Command::Release(arguments) => steer::release(&arguments, session).await?,
        Command::Priority(arguments) => steer::priority(&arguments, session).await?,
        Command::Usage(arguments) => usage::run(&arguments, session).await?,
        Command::Metrics(arguments) => metrics::run(&arguments, session).await?,
        Command::Accept(arguments) => accept::run(&arguments, session).await?,
        Command::Nodes => nodes::run(session).await?,
        Command::Top(arguments) => top::run(&arguments, session).await?,
        Command::Node(command) => node::run(&command, session).await?,
        Command::Why(arguments) => why::run(&arguments, session).await?,
        Command::Queue(command) => queue::run(&command, session).await?,
        Command::Token(command) => token::run(&command, session).await?,
        Command::User(arguments) => user::run(&arguments, session).await?,
        Command::Backup(arguments) => backup::run(&arguments, session).await?,
        Command::Audit(arguments) => audit::run(&arguments, session).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Session {
    /// Reads `path` and prints it: as it came with `--json`, else by `text`.
    async fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &'static str,
        text: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Error> {
        let get = async || self.client.get(path).await;
        let bytes = while_unavailable(READ_WINDOW, &self.terminal, get).await?;
        self.print(&bytes, what, text)
    }

    /// Prints an answer: as it came with `--json`, else by `text`.
    fn print<T: DeserializeOwned>(
        &self,
        bytes: &Bytes,
        what: &'static str,
        text: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Error> {
        if self.terminal.json {
            return self.terminal.print(&String::from_utf8_lossy(bytes));
        }
        let value = parse(bytes, what)?;
        self.terminal.print(&text(&value, &self.terminal.look()))
    }

    /// Asks for a change, waiting for a leader. Asked twice it is the same request: what the first one did is not an
    /// error of the second.
    async fn change(&self, request: impl Fn() -> Request) -> Result<Bytes, Error> {
        let key = HeaderValue::try_from(uuid::Uuid::new_v4().to_string())
            .expect("a UUID is visible ASCII");
        let ask = async || {
            let request = request().header(IDEMPOTENCY_KEY, key.clone());
            self.client.ask(request).await
        };
        while_unavailable(WRITE_WINDOW, &self.terminal, ask).await
    }
}

/// The exit code of this process for that of an experiment.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
