//! `muster restore` and `muster recover`: what is done to a node that does not run.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use service::offline::{RecoverOptions, RestoreOptions, Survivor};
use types::NodeFacts;

use crate::config::{default_data_directory, host_name};
use crate::data_directory::DataDirectory;

/// Flags of `muster restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreFlags {
    /// The backup, made by `muster backup`.
    file: PathBuf,
    /// An empty directory for the node.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Put source trees and recorded output back too, of a backup made with --with-blobs.
    #[arg(long)]
    with_blobs: bool,
    /// Go on as the same cluster instead of as a new one. Only if the old one is gone for good.
    #[arg(long, requires = "cluster_key")]
    same_cluster: bool,
    /// The old cluster's key: `cluster.key` in the data directory of one of its voters.
    #[arg(long, value_name = "FILE", requires = "same_cluster")]
    cluster_key: Option<PathBuf>,
    /// Number of the new history, if one above the backup's was used by an earlier restore or recovery.
    #[arg(long, value_name = "N")]
    incarnation: Option<u64>,
}

/// Flags of `muster recover`.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoverFlags {
    /// Directory of the stopped node.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Do it.
    #[arg(long)]
    force: bool,
    /// A voter whose disk never comes back, by name or id; each other voter must be named.
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    i_have_lost: Vec<String>,
    /// Do not look whether the other voters still answer.
    #[arg(long)]
    offline_voters_are_gone: bool,
    /// The cluster's key, where this node has none because it never voted.
    #[arg(long, value_name = "FILE")]
    cluster_key: Option<PathBuf>,
    /// Number of the new history, if the next one was used already.
    #[arg(long, value_name = "N")]
    incarnation: Option<u64>,
}

/// Restores a backup and says what it became.
pub(crate) async fn restore(flags: RestoreFlags) -> anyhow::Result<()> {
    let root = flags.data_dir.map_or_else(default_data_directory, Ok)?;
    let directory = DataDirectory::open(&root)?;
    let facts = NodeFacts {
        name: host_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: Vec::new(),
    };
    let options = RestoreOptions {
        file: flags.file,
        directory: root.clone(),
        facts,
        cluster_key: flags.cluster_key,
        with_blobs: flags.with_blobs,
        incarnation: flags.incarnation,
    };
    let restored = service::offline::restore(options).await?;
    drop(directory);
    print(&format!(
        "{restored}\nstart it:  muster up --data-dir {}\n",
        root.display()
    ))
}

/// Says what a survivor holds, and makes it the only voter if that is asked for in full.
pub(crate) async fn recover(flags: RecoverFlags) -> anyhow::Result<()> {
    let root = flags.data_dir.map_or_else(default_data_directory, Ok)?;
    if !root.join("lock").exists() {
        bail!(
            "{} is no data directory of a node: name it with --data-dir",
            root.display()
        );
    }
    let directory = DataDirectory::open(&root)?;
    let survivor = Survivor::look(root.clone()).await?;
    print(&survivor.account())?;
    let lost = flags.i_have_lost.clone();
    if !flags.force {
        let names = survivor
            .other_voters()
            .into_iter()
            .map(|node| survivor.name(&node));
        let names: Vec<_> = names.map(|name| format!(" --i-have-lost {name}")).collect();
        bail!(
            "nothing was changed. If the other voters never come back: muster recover --force{} --data-dir {}",
            names.concat(),
            root.display()
        );
    }
    survivor.check_lost(&lost)?;
    if !flags.offline_voters_are_gone {
        refuse_if_alive(&survivor, &directory).await?;
    }
    let options = RecoverOptions {
        lost,
        cluster_key: flags.cluster_key,
        incarnation: flags.incarnation,
    };
    let recovered = survivor.recover(&options).await?;
    drop(directory);
    print(&format!(
        "incarnation {} begins here; the old store is kept in {}\nstart it:  muster up --data-dir {}\nthen `muster token new`, and on the others `muster up --rejoin TOKEN`\n",
        recovered.incarnation,
        recovered.aside.display(),
        root.display()
    ))
}

async fn refuse_if_alive(survivor: &Survivor, directory: &DataDirectory) -> anyhow::Result<()> {
    let network = network::start(network::Config {
        key_file: directory.path("node.key"),
        control_listen: Vec::new(),
        bulk_listen: Vec::new(),
        mdns: false,
        gossip_subscribe: false,
        bulk_bytes_per_second: None,
    });
    let network = network.await.context("look for the other voters")?;
    let alive = survivor.who_answers(&network.handle).await;
    network.shutdown.cancel();
    if let Some(node) = alive.first() {
        bail!(
            "the voter {} answers: it is not lost. With it this node may be a majority: start this node with `muster up`; if it must go, stop it first",
            survivor.name(node)
        );
    }
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
