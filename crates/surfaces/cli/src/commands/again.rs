//! `muster clone` and `muster rerun`.

use std::path::PathBuf;
use std::process::ExitCode;

use rest::wire::{CloneRequest, RerunRequest};
use serde::Serialize;
use types::{DurationMs, StopRule, parse_duration};

use crate::client::{Request, encode, header_value, parse};
use crate::error::Error;
use crate::retry::while_unavailable;

use super::run::{Needs, pair, parameters, resources};
use super::{IDEMPOTENCY_KEY, Session, WRITE_WINDOW, run};

/// What both have.
#[derive(Debug, clap::Args)]
pub(super) struct Submission {
    /// Names this submission: the same key submits once (default: a random one)
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Refuse at once when no node of the cluster could ever run it
    #[arg(long)]
    fail_if_impossible: bool,
    /// Print the output until the end, and exit as the command does
    #[arg(short, long)]
    follow: bool,
}

/// Options of `muster clone`. What is not said stays as it was.
#[derive(Debug, clap::Args)]
pub struct Clone {
    /// Id, the start of one, or a name
    experiment: String,
    /// A parameter that is added or gets another value; may be given several times
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Parameters from a file of JSON or TOML
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Another queue
    #[arg(long)]
    queue: Option<String>,
    /// Another priority
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Another longest run time, such as 90m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    time: Option<DurationMs>,
    /// How often the command is tried again after it failed
    #[arg(long, value_name = "NUMBER")]
    retries: Option<u32>,
    /// How often it is placed again after its node was lost
    #[arg(long, value_name = "NUMBER")]
    retries_node_lost: Option<u32>,
    /// How long it may run on without word from the cluster
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    lease: Option<DurationMs>,
    /// A variable that is added or gets another value; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    variables: Vec<(String, String)>,
    /// Another place of checkpoints
    #[arg(long = "checkpoint", value_name = "DIR")]
    checkpoint_directory: Option<String>,
    /// warn, or stop it, if it holds more memory of a shared GPU than it was given
    #[arg(long, value_name = "POLICY")]
    vram_overuse: Option<String>,
    /// Another rule by which it ends itself, such as 'loss > 2 after step 1000'
    #[arg(long, value_name = "RULE")]
    stop_when: Option<StopRule>,
    #[command(flatten)]
    submission: Submission,
    #[command(flatten)]
    needs: Needs,
    /// Another command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Options of `muster rerun`.
#[derive(Debug, clap::Args)]
pub struct Rerun {
    /// Id, the start of one, or a name
    experiment: String,
    /// The node on which it is to run (default: wherever it fits)
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    #[command(flatten)]
    submission: Submission,
}

pub(super) async fn make_clone(arguments: &Clone, session: &Session) -> Result<ExitCode, Error> {
    let request = clone_request(arguments)?;
    let verb = (arguments.experiment.as_str(), "clone");
    submit(verb, &request, &arguments.submission, session).await
}

pub(super) async fn rerun(arguments: &Rerun, session: &Session) -> Result<ExitCode, Error> {
    let submission = &arguments.submission;
    let request = RerunRequest {
        node: arguments.on.clone(),
        fail_if_impossible: submission.fail_if_impossible,
    };
    let verb = (arguments.experiment.as_str(), "rerun");
    submit(verb, &request, submission, session).await
}

fn clone_request(arguments: &Clone) -> Result<CloneRequest, Error> {
    let rule = arguments.stop_when.as_ref();
    Ok(CloneRequest {
        name: arguments.name.clone(),
        command: arguments.command.clone(),
        variables: arguments.variables.clone(),
        parameters: parameters(arguments.params.as_deref(), &arguments.parameters)?,
        resources: resources(&arguments.needs),
        queue: arguments.queue.clone(),
        priority: arguments.priority,
        retries_node_lost: arguments.retries_node_lost,
        retries_failed: arguments.retries,
        time_limit_ms: arguments.time.map(|time| time.0),
        lease_ms: arguments.lease.map(|lease| lease.0),
        prefer_nodes: arguments.needs.prefer_nodes.clone(),
        checkpoint_directory: arguments.checkpoint_directory.clone(),
        vram_overuse: arguments.vram_overuse.clone(),
        stop_when: rule.map(ToString::to_string),
        fail_if_impossible: arguments.submission.fail_if_impossible,
    })
}

async fn submit<T: Serialize>(
    (experiment, verb): (&str, &str),
    request: &T,
    submission: &Submission,
    session: &Session,
) -> Result<ExitCode, Error> {
    let key = header_value(&run::key_of(submission.key.as_deref()), "--key")?;
    let path = format!("/experiments/{}/{verb}", encode(experiment));
    let ask = async || {
        let request = Request::json(&path, request).header(IDEMPOTENCY_KEY, key.clone());
        session.client.ask(request).await
    };
    let bytes = while_unavailable(WRITE_WINDOW, &session.terminal, ask).await?;
    let reply = parse(&bytes, "a submission's answer")?;
    run::announce(submission.follow, &reply, &bytes, session)?;
    match submission.follow {
        true => run::follow(&reply, session).await,
        false => Ok(ExitCode::SUCCESS),
    }
}
