//! `muster show`.

use std::time::Duration;

use rest::wire::{ExperimentDetail, GroupView, SamplesView};

use crate::client::{encode, parse};
use crate::error::Error;
use crate::output;
use crate::retry::while_unavailable;

use super::{GROUP_PREFIX, READ_WINDOW, Session};

/// How long the page waits for what was used: it is wanted at once, and `muster usage` has the patience.
const USED_PATIENCE: Duration = Duration::from_secs(3);

/// Options of `muster show`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name; or the id of a group
    experiment: String,
    /// A metric that the table of a group shows; may be given several times (default: the first four by name)
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    if !arguments.experiment.starts_with(GROUP_PREFIX) {
        return show_experiment(arguments, session).await;
    }
    match show_group(arguments, session).await {
        // A person may have named an experiment so.
        Err(error) if error.is_unknown() => match show_experiment(arguments, session).await {
            Err(other) if other.is_unknown() => Err(error),
            shown => shown,
        },
        shown => shown,
    }
}

async fn show_group(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let path = format!("/groups/{}", encode(&arguments.experiment));
    let text = |group: &GroupView, look: &_| output::group_page(group, &arguments.metrics, look);
    session.show(&path, "a group", text).await
}

async fn show_experiment(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}", encode(&arguments.experiment));
    let get = async || session.client.get(&path).await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    let used = match session.terminal.json {
        true => Vec::new(), // printed as it came
        false => used(&parse(&bytes, "an experiment")?, session).await,
    };
    session.print(&bytes, "an experiment", |detail, look| {
        output::experiment_page(detail, &used, look)
    })
}

/// Lines about what the last attempt used. Asked once: a page about an experiment whose machine just went away is wanted
/// at once, and says that this part is missing.
async fn used(detail: &ExperimentDetail, session: &Session) -> Vec<(&'static str, String)> {
    let Some(attempt) = detail.attempts.last() else {
        return Vec::new();
    };
    let id = encode(&detail.summary.id);
    let path = format!(
        "/experiments/{id}/samples?attempt={}&points=1",
        attempt.number
    );
    let read = tokio::time::timeout(USED_PATIENCE, session.client.get(&path));
    let Ok(read) = read.await else {
        let text = "it takes long to read: `muster usage` waits for it";
        return vec![("not known", text.to_owned())];
    };
    match read.and_then(|bytes| parse::<SamplesView>(&bytes, "samples")) {
        Ok(view) => output::usage_lines(&view),
        Err(error) => vec![("not known", error.to_string())],
    }
}
