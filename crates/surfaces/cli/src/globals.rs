//! Options that every command takes.

use std::path::PathBuf;

/// Options that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Globals {
    /// The node to talk to: its name, the path of its socket, or http(s)://host:port (then `MUSTER_TOKEN` is sent)
    #[arg(
        long,
        global = true,
        env = "MUSTER_NODE",
        value_name = "NAME|SOCKET|URL"
    )]
    pub node: Option<String>,
    /// Fingerprint of the certificate of an https:// node, as `muster up` prints it there
    #[arg(
        long,
        global = true,
        env = "MUSTER_PIN",
        value_name = "sha256:…",
        hide_env_values = true
    )]
    pub pin: Option<String>,
    /// File with the authority that signed the certificate of an https:// node
    #[arg(long, global = true, env = "MUSTER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print the JSON of the interface instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print without colours (as `NO_COLOR` does)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Read what the node knows by itself, without asking the cluster's majority
    #[arg(long, global = true)]
    pub stale: bool,
}
