//! `muster show`.

use crate::client::encode;
use crate::error::Error;
use crate::output;

use super::Session;

/// Options of `muster show`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name
    experiment: String,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}", encode(&arguments.experiment));
    session
        .show(&path, "an experiment", output::experiment_page)
        .await
}
