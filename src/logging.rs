//! Log lines of the node: to standard error, filtered by the settings.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging. A bad filter is an error of the settings.
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    format.with_target(false).compact().init();
    Ok(())
}
