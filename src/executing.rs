//! The executor of a node, and the package index that its builds ask.

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::data_directory::DataDirectory;

/// Open, not running yet.
pub(crate) struct Executing {
    pub(crate) handle: executor::Handle,
    pub(crate) events: mpsc::Receiver<executor::Event>,
    pub(crate) runner: executor::Runner,
    pub(crate) packages: rest::PackagePort,
}

/// Opens the executor; the port of the package index is taken first, since builds are told of it.
pub(crate) async fn open(config: &Config, directory: &DataDirectory) -> anyhow::Result<Executing> {
    let program = std::env::current_exe().context("find the path of this program")?;
    let packages = rest::PackagePort::bind(&uuid::Uuid::new_v4().to_string()).await;
    let packages = packages.context("take a port of loopback for the package index")?;
    let attempts = directory.path("attempts");
    let environments = executor::EnvironmentConfig {
        index: Some(executor::PackageIndex {
            url: packages.url()?,
        }),
        ..executor::EnvironmentConfig::beside(&attempts)
    };
    let executor_config = executor::Config {
        environments,
        use_cgroups: config.use_cgroups,
        job_user: config.job_user.clone(),
        mps_directory: config.mps_directory.clone().unwrap_or_else(mps_default),
        private_directory: Some(config.data_directory.clone()),
        ..executor::Config::new(attempts, program)
    };
    let (handle, events, runner) = executor::start(executor_config).await?;
    Ok(Executing {
        handle,
        events,
        runner,
        packages,
    })
}

/// Where NVIDIA's programs look for MPS unless they are told otherwise.
fn mps_default() -> std::path::PathBuf {
    executor::Config::DEFAULT_MPS_DIRECTORY.into()
}
