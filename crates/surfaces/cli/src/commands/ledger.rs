//! `muster ledger`.

use rest::wire::LedgerEntryView;

use crate::client::encode;
use crate::error::Error;
use crate::output;

use super::Session;

/// Options of `muster ledger`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what was done about this experiment: id, the start of one, or a name
    experiment: Option<String>,
    /// At most so many entries
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let mut path = format!("/ledger?limit={}", arguments.limit);
    if let Some(experiment) = &arguments.experiment {
        path.push_str(&format!("&experiment={}", encode(experiment)));
    }
    let text = |entries: &Vec<LedgerEntryView>, look: &_| output::ledger(entries, look);
    session.show(&path, "a ledger", text).await
}
