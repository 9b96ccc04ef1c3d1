//! `muster demo`.

/// Flags of `muster demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoFlags {
    /// End when the demonstration is over, with 0 or 1, instead of leaving the cluster up.
    #[arg(long)]
    exit: bool,
}

/// Runs it.
pub(crate) async fn run(_flags: &DemoFlags) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
