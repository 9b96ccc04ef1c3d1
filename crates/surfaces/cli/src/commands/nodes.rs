//! `muster nodes`.

use crate::error::Error;
use crate::output;

use super::Session;

pub(super) async fn run(session: &Session) -> Result<(), Error> {
    session
        .show("/nodes", "a list of nodes", output::nodes)
        .await
}
