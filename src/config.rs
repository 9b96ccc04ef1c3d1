//! Settings of a node: what a file, the environment and flags say, then what it means.
//!
//! Only this file reads the environment. Order: defaults, file, `MUSTER_*` variables, flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};
use types::{DurationMs, JoinTokenText};

/// Flags of `muster up`.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
pub(crate) struct UpFlags {
    /// Join the cluster of this token (`muster token new` on any member prints one); @FILE or - reads it from a file or
    /// standard input, where no other user of the machine sees it.
    #[arg(long, value_name = "TOKEN")]
    #[serde(skip)]
    pub(crate) join: Option<String>,
    /// Join anew under a new key after the disk was lost or damaged; the old files are kept aside.
    #[arg(long, value_name = "TOKEN", conflicts_with = "join")]
    #[serde(skip)]
    pub(crate) rejoin: Option<String>,
    /// Make a new cluster without first listening for others on the local network.
    #[arg(long, conflicts_with_all = ["join", "rejoin"])]
    #[serde(skip)]
    pub(crate) new: bool,
    /// Submit only: take no attempts, hold no vote (a laptop).
    #[arg(long)]
    #[serde(skip)]
    pub(crate) no_work: bool,
    /// Settings file; default: muster.toml in the data directory, if there.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of this node's key, log, blobs and attempts.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR")]
    #[serde(skip)]
    data_dir: Option<PathBuf>,
    /// Name of this node; default: the host name.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Address for peers, an IP or IP:PORT; the bulk plane listens on the port after it. Default 0.0.0.0:7718.
    #[arg(long, value_name = "IP[:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// Address of the HTTP API; default 127.0.0.1. One that other machines reach speaks TLS and needs a user token to be
    /// there (`muster user add`).
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_address: Option<String>,
    /// TCP port of the HTTP API; default 7717, 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// Unix socket of the command line; default: `NAME.sock` where `muster` looks for it.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
    /// Do not use multicast DNS on the local network.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) no_mdns: bool,
    /// What to do with an experiment that holds more GPU memory than it was given: warn, or stop it. Default warn.
    #[arg(long, value_name = "warn|stop")]
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_overuse: Option<String>,
    /// Timing of a new cluster: lan, or wan for machines far apart.
    #[arg(long, value_name = "lan|wan")]
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<String>,
}

/// What file, environment and flags may say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a settings file"
)]
struct RawConfig {
    name: Option<String>,
    listen: String,
    api_address: String,
    port: u16,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    socket: Option<PathBuf>,
    mdns: bool,
    timing: String,
    takes_work: bool,
    may_vote: bool,
    keeps_blobs: Option<bool>,
    labels: Vec<String>,
    allowed_hosts: Vec<String>,
    bulk_bytes_per_second: Option<u64>,
    disk_reserve: String,
    copies_remade_after: String,
    blobs_collected_every: String,
    preempt_after: String,
    log_reserve: String,
    cgroups: bool,
    job_user: String,
    vram_overuse: String,
    log: String,
    resources: RawResources,
}

/// What the node declares instead of measuring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawResources {
    cpus: Option<String>,
    memory: Option<String>,
    gpus: Option<Vec<RawGpu>>,
    vram: Option<String>,
    nvml_path: Option<PathBuf>,
}

/// A declared GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGpu {
    model: String,
    vram: String,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            name: None,
            listen: "0.0.0.0:7718".to_owned(),
            api_address: "127.0.0.1".to_owned(),
            port: 7717,
            tls_certificate: None,
            tls_key: None,
            socket: None,
            mdns: true,
            timing: "lan".to_owned(),
            takes_work: true,
            may_vote: true,
            keeps_blobs: None,
            labels: Vec::new(),
            allowed_hosts: Vec::new(),
            bulk_bytes_per_second: None,
            disk_reserve: "2GiB".to_owned(),
            copies_remade_after: "10m".to_owned(),
            blobs_collected_every: "1h".to_owned(),
            preempt_after: "2m".to_owned(),
            log_reserve: "64MiB".to_owned(),
            cgroups: true,
            job_user: "auto".to_owned(),
            vram_overuse: "warn".to_owned(),
            log: "info,openraft=error,sled=warn".to_owned(),
            resources: RawResources::default(),
        }
    }
}

/// Checked settings of a node.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a settings file"
)]
pub(crate) struct Config {
    pub(crate) data_directory: PathBuf,
    pub(crate) name: String,
    pub(crate) control_listen: Vec<String>,
    pub(crate) bulk_listen: Vec<String>,
    pub(crate) http: SocketAddr,
    pub(crate) tls: Option<rest::TlsFiles>,
    pub(crate) socket: PathBuf,
    pub(crate) mdns: bool,
    pub(crate) timing: String,
    pub(crate) takes_work: bool,
    pub(crate) may_vote: bool,
    /// None: by free disk, see [`MIN_STORAGE_BYTES`].
    pub(crate) keeps_blobs: Option<bool>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) bulk_bytes_per_second: Option<u64>,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) copies: service::CopyTimes,
    /// Wait after which somebody with less than a fair share takes from who has more.
    pub(crate) preempt_after: DurationMs,
    /// Size of the file that keeps room on the disk of the log.
    pub(crate) log_reserve_bytes: u64,
    pub(crate) use_cgroups: bool,
    /// As whom experiments run.
    pub(crate) job_user: executor::JobUser,
    /// Where an MPS control daemon has its pipes; none: at its usual place.
    pub(crate) mps_directory: Option<PathBuf>,
    /// What is done with an attempt that holds more GPU memory than it was given.
    pub(crate) vram_overuse: types::Overuse,
    pub(crate) log_filter: String,
    pub(crate) declared: telemetry::Declared,
    pub(crate) nvml_path: Option<PathBuf>,
    pub(crate) join: Option<JoinTokenText>,
    pub(crate) new: bool,
    /// Put the old identity aside first.
    pub(crate) rejoin: bool,
}

/// `MUSTER_*` variables that are no settings: the command line's, and what an experiment or an instance is told.
const OTHER_VARIABLES: [&str; 11] = [
    "node",
    "token",
    "pin",
    "ca",
    "instance_id",
    "hold_role",
    "experiment_id",
    "attempt",
    "rank",
    "nodes",
    "data_dir",
];

/// Shortest silence after which copies are made again.
const MIN_REMAKE: Duration = Duration::from_secs(6);

/// Free disk from which on a node keeps blobs for others.
pub(crate) const MIN_STORAGE_BYTES: u64 = 20 << 30;

impl Config {
    /// Reads and checks everything.
    pub(crate) fn load(flags: &UpFlags) -> anyhow::Result<Self> {
        let data_directory = flags
            .data_dir
            .clone()
            .map_or_else(default_data_directory, Ok)?;
        let file = flags
            .config
            .clone()
            .unwrap_or_else(|| data_directory.join("muster.toml"));
        if flags.config.is_some() && !file.is_file() {
            bail!("there is no settings file {}", file.display());
        }
        let raw: RawConfig = Figment::from(Serialized::defaults(RawConfig::default()))
            .merge(Toml::file(&file))
            .merge(
                Env::prefixed("MUSTER_")
                    .ignore(&OTHER_VARIABLES)
                    .split("__"),
            )
            .merge(Serialized::defaults(flags))
            .extract()
            .with_context(|| {
                format!(
                    "settings ({}, MUSTER_* variables and flags) make no sense",
                    file.display()
                )
            })?;
        Self::check(raw, data_directory, flags)
    }

    fn check(raw: RawConfig, data_directory: PathBuf, flags: &UpFlags) -> anyhow::Result<Self> {
        let name = raw.name.clone().unwrap_or_else(host_name);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty()
            || name.len() > 64
            || !name.chars().all(plain)
            || name.starts_with(['.', '-'])
        {
            bail!(
                "{name:?} cannot name a node: 1 to 64 letters, digits, -, _ or ., starting with a letter or digit"
            );
        }
        if !matches!(raw.timing.as_str(), "lan" | "wan") {
            bail!("timing is lan or wan, not {:?}", raw.timing);
        }
        let (control_listen, bulk_listen) = listen_addresses(&raw.listen)?;
        let labels = labels(&raw.labels)?;
        let join = flags
            .join
            .as_ref()
            .or(flags.rejoin.as_ref())
            .map(|given| read_token(given))
            .transpose()?;
        let copies = copy_times(&raw)?;
        let log_reserve_bytes = types::parse_bytes(&raw.log_reserve).context("log_reserve")?;
        let http = raw
            .api_address
            .parse()
            .map(|ip| SocketAddr::new(ip, raw.port));
        let http =
            http.with_context(|| format!("api_address {:?} is no IP address", raw.api_address))?;
        let tls = tls_files(&raw, http, &data_directory, &name)?;
        Ok(Self {
            socket: raw.socket.unwrap_or_else(|| default_socket(&name)),
            http,
            tls,
            mdns: raw.mdns && !flags.no_mdns,
            takes_work: raw.takes_work && !flags.no_work,
            may_vote: raw.may_vote && !flags.no_work,
            keeps_blobs: if flags.no_work {
                Some(false)
            } else {
                raw.keeps_blobs
            },
            declared: declared(&raw.resources)?,
            nvml_path: raw.resources.nvml_path,
            timing: raw.timing,
            // Its own name too: people write https://NAME:7717.
            allowed_hosts: [raw.allowed_hosts, vec![name.clone()]].concat(),
            bulk_bytes_per_second: raw.bulk_bytes_per_second,
            use_cgroups: raw.cgroups,
            job_user: executor::JobUser::named(&raw.job_user),
            mps_directory: std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map(PathBuf::from),
            vram_overuse: raw.vram_overuse.parse().context("vram_overuse")?,
            log_filter: raw.log,
            new: flags.new,
            rejoin: flags.rejoin.is_some(),
            data_directory,
            name,
            control_listen,
            bulk_listen,
            labels,
            disk_reserve_bytes: types::parse_bytes(&raw.disk_reserve).context("disk_reserve")?,
            copies,
            preempt_after: types::parse_duration(&raw.preempt_after).context("preempt_after")?,
            log_reserve_bytes,
            join,
        })
    }
}

/// `name=value` each.
fn labels(texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |label: &String| {
        let pair = label.split_once('=');
        let pair = pair.with_context(|| format!("label {label:?}: write name=value"))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// Given files, or own ones where other machines reach the API.
fn tls_files(
    raw: &RawConfig,
    http: SocketAddr,
    data_directory: &Path,
    name: &str,
) -> anyhow::Result<Option<rest::TlsFiles>> {
    match (&raw.tls_certificate, &raw.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(rest::TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            make_for: None,
        })),
        (None, None) if http.ip().is_loopback() => Ok(None),
        (None, None) => {
            let mut names = vec![
                name.to_owned(),
                "localhost".to_owned(),
                "127.0.0.1".to_owned(),
                http.ip().to_string(),
            ];
            names.extend(raw.allowed_hosts.iter().cloned());
            Ok(Some(rest::TlsFiles {
                certificate: data_directory.join("api.crt"),
                key: data_directory.join("api.key"),
                make_for: Some(names),
            }))
        }
        (Some(_), None) | (None, Some(_)) => {
            bail!("tls_certificate and tls_key belong together: set both or none")
        }
    }
}

fn copy_times(raw: &RawConfig) -> anyhow::Result<service::CopyTimes> {
    let time =
        |text: &String| types::parse_duration(text).map(|time| Duration::from_millis(time.0));
    let remake_after = time(&raw.copies_remade_after).context("copies_remade_after")?;
    let collect = time(&raw.blobs_collected_every).context("blobs_collected_every")?;
    if remake_after < MIN_REMAKE || collect.is_zero() {
        bail!(
            "copies_remade_after is at least 6s, since a healthy node may be silent for 5s, and blobs_collected_every is more than 0"
        );
    }
    let times = service::CopyTimes::default();
    // A look costs little when nothing has changed.
    let look = times.look.min(remake_after);
    Ok(service::CopyTimes {
        look,
        remake_after,
        collect,
    })
}

/// A token as given, from a file (`@FILE`) or from standard input (`-`).
fn read_token(given: &str) -> anyhow::Result<JoinTokenText> {
    let text = match given.strip_prefix('@') {
        Some(file) => cli::read_secret_file(file.as_ref())?,
        None if given == "-" => std::io::read_to_string(std::io::stdin())
            .context("read the token from standard input")?,
        None => given.to_owned(),
    };
    Ok(text.parse()?)
}

fn declared(raw: &RawResources) -> anyhow::Result<telemetry::Declared> {
    let bytes = |text: &String| types::parse_bytes(text);
    let gpus = raw.gpus.as_ref().map(|gpus| {
        let gpu = |gpu: &RawGpu| {
            Ok(telemetry::DeclaredGpu {
                model: gpu.model.clone(),
                vram_bytes: bytes(&gpu.vram)?,
            })
        };
        gpus.iter()
            .map(gpu)
            .collect::<Result<Vec<_>, types::ParseResourceError>>()
    });
    Ok(telemetry::Declared {
        cpu_milli: raw
            .cpus
            .as_ref()
            .map(|text| types::parse_cpus(text))
            .transpose()
            .context("resources.cpus")?,
        memory_bytes: raw
            .memory
            .as_ref()
            .map(bytes)
            .transpose()
            .context("resources.memory")?,
        gpus: gpus.transpose().context("resources.gpus")?,
        vram_bytes: raw
            .vram
            .as_ref()
            .map(bytes)
            .transpose()
            .context("resources.vram")?,
    })
}

/// `IP` or `IP:PORT` as multiaddresses: TCP and QUIC, control on the port, bulk on the next one.
fn listen_addresses(listen: &str) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let address: SocketAddr = match listen.parse() {
        Ok(address) => address,
        Err(_no_port) => SocketAddr::new(
            listen
                .parse()
                .with_context(|| format!("{listen:?} is no IP address or IP:PORT"))?,
            7718,
        ),
    };
    let kind = if address.is_ipv4() { "ip4" } else { "ip6" };
    let (ip, port) = (address.ip(), address.port());
    let bulk_port = if port == 0 {
        0
    } else {
        port.checked_add(1)
            .context("the port after it must exist")?
    };
    let both = |port: u16| {
        vec![
            format!("/{kind}/{ip}/tcp/{port}"),
            format!("/{kind}/{ip}/udp/{port}/quic-v1"),
        ]
    };
    Ok((both(port), both(bulk_port)))
}

/// `/var/lib/muster` for root, else below the user's data directory.
pub(crate) fn default_data_directory() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/muster"));
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME") {
        return Ok(Path::new(&data).join("muster"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: give --data-dir")?;
    Ok(Path::new(&home).join(".local/share/muster"))
}

fn default_socket(name: &str) -> PathBuf {
    cli::Surroundings::read()
        .own_socket_directory()
        .join(format!("{name}.sock"))
}

pub(crate) fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    name.split('.').next().unwrap_or("node").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_both_planes_and_transports() {
        let (control, bulk) = listen_addresses("127.0.0.1:5000").unwrap();
        assert_eq!(
            control,
            ["/ip4/127.0.0.1/tcp/5000", "/ip4/127.0.0.1/udp/5000/quic-v1"]
        );
        assert_eq!(
            bulk,
            ["/ip4/127.0.0.1/tcp/5001", "/ip4/127.0.0.1/udp/5001/quic-v1"]
        );
        assert!(listen_addresses("localhost:x").is_err());
    }

    #[test]
    fn a_typo_in_the_settings_file_names_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("muster.toml");
        std::fs::write(&file, "lables = []\n").unwrap();
        let flags = UpFlags {
            config: Some(file),
            data_dir: Some(directory.path().into()),
            ..UpFlags::default()
        };
        let error = format!("{:#}", Config::load(&flags).unwrap_err());
        assert!(error.contains("lables"), "{error}");
    }
}
