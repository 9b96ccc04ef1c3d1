//! `muster compare`.

use crate::client::encode;
use crate::error::Error;
use crate::output;

use super::Session;

/// Options of `muster compare`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Two to eight ids, starts of ids, or names; the code of all is compared with that of the first
    #[arg(required = true, num_args = 2..=8)]
    experiments: Vec<String>,
    /// Also what is the same in all of them
    #[arg(short, long)]
    all: bool,
    /// Only name the files that differ
    #[arg(long)]
    no_diff: bool,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let ids: Vec<String> = arguments.experiments.iter().map(|id| encode(id)).collect();
    let path = format!("/compare?ids={}", ids.join(","));
    let (all, diffs) = (arguments.all, !arguments.no_diff);
    let text = |view: &_, look: &_| output::comparison(view, (all, diffs), look);
    session.show(&path, "a comparison", text).await
}
