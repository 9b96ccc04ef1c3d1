//! A node from start to end: opens its directory, joins, runs its loops, and goes in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use service::{Adapters, Handle};
use state_machine::{Command, FoundCluster};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::{DurationMs, MemberList, NodeFacts, SignedMemberList, codec};

use crate::announcing::announce;
use crate::config::{Config, MIN_STORAGE_BYTES};
use crate::data_directory::{DataDirectory, write_durably};
use crate::executing::{self, Executing};
use crate::joining;
use crate::loops;
use crate::raft_transport::RaftTransport;
use crate::removal;

/// How long a person's write waits for a leader.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the first node waits for its own election.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(10);
/// Sealed segments that wait to be stored.
const SEALED_QUEUE: usize = 64;
/// How long an orderly end waits for longer leases of what runs on.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// How long a shutdown may take before the process ends anyway.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// Runs a node until it is told to end.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let directory = Arc::new(DataDirectory::open(&config.data_directory)?);
    if config.rejoin
        && let Some(aside) = directory.put_identity_aside(service::now())?
    {
        tracing::warn!(path = %aside.display(), "old identity put aside; joining under a new key");
    }
    removal::check(&directory)?;
    let root = config.data_directory.display().to_string();
    let known = joining::check_cluster(&directory, &root, config.join.as_ref())?;
    let bound = rest::bind(&rest_config(&config)).await?;
    let network = network::start(network_config(&config, &directory)).await?;
    let facts = facts(&config, &directory, &network.handle).await?;
    let belonging = belong(
        &config,
        &directory,
        &network.handle,
        &facts,
        known.is_some(),
    )
    .await?;
    let founding = belonging.founding;

    let started = Started::open(
        &config,
        &directory,
        &network.handle,
        belonging.signed,
        founding.as_ref(),
    )
    .await?;
    // Before anything runs that could read it.
    directory.close_to_others()?;
    let cancel = CancellationToken::new();
    let mut loops = JoinSet::new();
    let inbox = (network.events, network.raft);
    let handle = started.spawn(&mut loops, inbox, &facts, &directory, &cancel);
    handle.set_api_url(bound.url());
    let fresh = founding.is_some();
    if let Some(key) = founding {
        found(&handle, &config, &directory, key, &facts).await?;
    }
    bound.refuse_without_tokens(&handle).await?;
    announce(&handle, &config, &bound, fresh).await?;
    loops.spawn(serve(bound, handle.clone(), cancel.clone()));
    let end = wait_for_end(&handle, &directory, &mut loops).await;
    if end.is_ok() {
        handle.lengthen_own_leases(RESTART_PATIENCE).await;
    }
    handle.lead_elsewhere().await;
    tracing::info!("shutting down");
    cancel.cancel();
    let ordered = async {
        while loops.join_next().await.is_some() {}
        handle.consensus().shutdown().await;
        network.shutdown.cancel();
        network.task.await
    };
    if tokio::time::timeout(SHUTDOWN_PATIENCE, ordered)
        .await
        .is_err()
    {
        tracing::warn!("shutdown took too long; ending anyway");
    }
    end
}

/// How this node comes to its cluster.
struct Belonging {
    /// The last member list, if it is a member.
    signed: Option<SignedMemberList>,
    /// The key of the cluster that it is about to make.
    founding: Option<network::ClusterKey>,
}

/// Joins by token, or prepares to make a cluster, unless the node belongs to one already.
async fn belong(
    config: &Config,
    directory: &DataDirectory,
    network: &network::Handle,
    facts: &NodeFacts,
    is_member: bool,
) -> anyhow::Result<Belonging> {
    if is_member {
        return Ok(Belonging {
            signed: directory.members()?,
            founding: None,
        });
    }
    if let Some(token) = &config.join {
        let signed = joining::join(network, directory, token, facts).await?;
        return Ok(Belonging {
            signed: Some(signed),
            founding: None,
        });
    }
    if config.mdns && !config.new {
        joining::listen_first(network).await?;
    }
    // A key that is there already is of a founding that was cut short: it is finished.
    let key = network::ClusterKey::load(&directory.path("cluster.key"))?;
    Ok(Belonging {
        signed: None,
        founding: Some(key.unwrap_or_else(network::ClusterKey::generate)),
    })
}

fn rest_config(config: &Config) -> rest::Config {
    rest::Config {
        tcp: Some(config.http),
        unix_socket: config.socket.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        tls: config.tls.clone(),
    }
}

fn network_config(config: &Config, directory: &DataDirectory) -> network::Config {
    network::Config {
        key_file: directory.path("node.key"),
        control_listen: config.control_listen.clone(),
        bulk_listen: config.bulk_listen.clone(),
        mdns: config.mdns,
        gossip_subscribe: false,
        bulk_bytes_per_second: config.bulk_bytes_per_second,
    }
}

async fn facts(
    config: &Config,
    directory: &DataDirectory,
    network: &network::Handle,
) -> anyhow::Result<NodeFacts> {
    let (control_addresses, bulk_addresses) = network.listen_addresses().await;
    let roomy = directory.free_bytes()? >= MIN_STORAGE_BYTES;
    Ok(NodeFacts {
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_addresses,
        bulk_addresses,
        takes_work: config.takes_work,
        may_vote: config.may_vote,
        keeps_blobs: config.keeps_blobs.unwrap_or(roomy),
        labels: config.labels.clone(),
    })
}

/// Everything open, nothing running yet.
struct Started {
    handle: Handle,
    telemetry: telemetry::Handle,
    sampler: std::pin::Pin<Box<dyn Future<Output = Result<(), telemetry::Error>> + Send>>,
    executor_events: mpsc::Receiver<executor::Event>,
    runner: executor::Runner,
    packages: rest::PackagePort,
    members: Option<MemberList>,
    preempt_after: DurationMs,
}

impl Started {
    async fn open(
        config: &Config,
        directory: &DataDirectory,
        network: &network::Handle,
        signed: Option<SignedMemberList>,
        founding: Option<&network::ClusterKey>,
    ) -> anyhow::Result<Self> {
        let blobs = blobs::open(blobs::Config {
            reserve_free_bytes: config.disk_reserve_bytes,
            ..blobs::Config::new(directory.path("blobs"))
        })?;
        let Executing {
            handle: executor,
            events: executor_events,
            runner,
            packages,
        } = executing::open(config, directory).await?;
        let (telemetry, sampler) = telemetry::start(telemetry::Config {
            declared: config.declared.clone(),
            nvml_path: config.nvml_path.clone(),
            disk_reserve_bytes: config.disk_reserve_bytes,
            warnings: executor.warnings(),
            ..telemetry::Config::new(network.node_id().clone(), config.data_directory.clone())
        })?;
        let members = signed.as_ref().and_then(|signed| {
            codec::decode::<MemberList>(&signed.list, codec::MAX_MESSAGE_BYTES).ok()
        }); // Checked when it was kept.
        let consensus_config = consensus::Config {
            // All replicas must agree: the cluster's word, not this machine's settings.
            timing: consensus::Timing::named(
                members.as_ref().map_or(&config.timing, |list| &list.timing),
            ),
            must_exist: directory.had_store(),
            reserve_bytes: config.log_reserve_bytes,
            ..consensus::Config::new(directory.path("raft"), network.node_id().clone())
        };
        let consensus =
            consensus::open(consensus_config, RaftTransport::new(network.clone())).await?;
        directory.note_store()?;
        let key_path = directory.path("cluster.key");
        let cluster_key = match founding {
            Some(key) => Some(network::ClusterKey::from_bytes(&key.to_bytes())?),
            None => network::ClusterKey::load(&key_path)?,
        };
        let adapters = Adapters {
            network: network.clone(),
            consensus,
            blobs,
            executor,
            mirror: executor::mirror::Mirror::open(&directory.path("mirror"))?,
            telemetry: telemetry.clone(),
            cluster_key,
            members: signed,
            keep_cluster_key: Box::new(move |bytes| write_durably(&key_path, bytes)),
        };
        let service_config = service::Config {
            node_name: config.name.clone(),
            write_patience: WRITE_PATIENCE,
            copies: config.copies,
            vram_overuse: config.vram_overuse,
            packages_directory: directory.path("packages"),
        };
        let handle = Handle::new(service_config, adapters);
        Ok(Self {
            handle,
            telemetry,
            sampler: Box::pin(sampler),
            executor_events,
            runner,
            packages,
            members,
            preempt_after: config.preempt_after,
        })
    }

    fn spawn(
        self,
        loops: &mut JoinSet<()>,
        (events, raft): (
            mpsc::Receiver<network::Event>,
            mpsc::Receiver<network::RaftCall>,
        ),
        facts: &NodeFacts,
        directory: &Arc<DataDirectory>,
        cancel: &CancellationToken,
    ) -> Handle {
        let Self {
            handle,
            telemetry,
            sampler,
            executor_events,
            runner,
            packages,
            members,
            preempt_after,
        } = self;
        let (sealed, sealed_events) = mpsc::channel(SEALED_QUEUE);
        let (h, c) = (|| handle.clone(), || cancel.clone());
        loops.spawn(loops::peers::run_raft(
            handle.consensus().clone(),
            raft,
            c(),
        ));
        loops.spawn(loops::peers::run(h(), events, c()));
        loops.spawn(loops::reports::run(h(), telemetry, c()));
        loops.spawn(watch_gpus(h(), c()));
        loops.spawn(watch_members(h(), c()));
        loops.spawn(loops::scheduling::run(h(), preempt_after, c()));
        loops.spawn(loops::leases::run(h(), c()));
        loops.spawn(h().release_placements(c()));
        loops.spawn(h().keep_copies(c()));
        loops.spawn(watch_clock(h(), c()));
        loops.spawn(loops::wanted::run(h(), c()));
        loops.spawn(loops::execution::run(h(), executor_events, sealed, c()));
        loops.spawn(loops::records::run(h(), sealed_events, c()));
        loops.spawn(until_cancelled("telemetry", sampler, c()));
        loops.spawn(runner.run(c()));
        let packages = rest::serve_packages(packages, h(), c());
        loops.spawn(until_cancelled("package index", packages, c()));
        let membership = loops::membership::Membership {
            handle: h(),
            directory: Arc::clone(directory),
            facts: facts.clone(),
            known: (0, BTreeSet::new()),
            kept: members.as_ref().map_or(0, |list| list.version),
            told: (0, BTreeSet::new()),
            released: Default::default(),
            links: loops::links::Links::new(),
            keyed: BTreeSet::new(),
        };
        loops.spawn(find_home(h(), members, membership, c()));
        handle
    }
}

/// Gives the network the last known members, then follows the members and looks for those that have moved.
async fn find_home(
    handle: Handle,
    members: Option<MemberList>,
    mut membership: loops::membership::Membership,
    cancel: CancellationToken,
) {
    if let Some(list) = members {
        membership.links.follow(&handle, &list).await;
        loops::links::announce(&handle, &list).await;
    }
    tokio::select! {
        () = membership.run(cancel) => {}
        never = service::look_for_leader(&handle) => match never {},
    }
}

async fn watch_members(handle: Handle, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        never = handle.watch_members() => match never {},
    }
}

/// Until the node ends: a leader whose clock is wrong gives up the lead.
async fn watch_clock(handle: Handle, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        never = handle.watch_clock() => match never {},
    }
}

async fn watch_gpus(handle: Handle, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        never = handle.watch_gpus() => match never {},
    }
}

async fn until_cancelled<E: std::fmt::Display>(
    what: &'static str,
    work: impl Future<Output = Result<(), E>> + Send,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        end = work => if let Err(error) = end {
            tracing::error!(%error, what, "part of the node has failed");
        },
    }
}

async fn serve(bound: rest::Bound, handle: Handle, cancel: CancellationToken) {
    if let Err(error) = rest::serve(bound, handle, cancel).await {
        tracing::error!(%error, "the API has failed");
    }
}

/// Makes the cluster: the first node elects itself and writes the first entry.
async fn found(
    handle: &Handle,
    config: &Config,
    directory: &DataDirectory,
    key: network::ClusterKey,
    facts: &NodeFacts,
) -> anyhow::Result<()> {
    if !directory.path("cluster.key").exists() {
        key.save(&directory.path("cluster.key"))?;
    }
    let consensus = handle.consensus();
    if !consensus.is_initialized().await? {
        consensus.initialize().await?;
    }
    let mut leader = consensus.leader();
    let led = leader.wait_for(|leadership| leadership.is_self);
    tokio::time::timeout(FOUNDING_PATIENCE, led)
        .await
        .context("the first node was not elected in time")??;
    let command = Command::FoundCluster(FoundCluster {
        cluster: key.cluster_id(),
        public_key: key.public_key_bytes(),
        founder: handle.node_id().clone(),
        facts: facts.clone(),
        timing: config.timing.clone(),
    });
    match handle.propose_as_node(command).await {
        Err(error) if error.code != "already-founded" => {
            return Err(anyhow!("the cluster could not be founded: {error}"));
        }
        Ok(_) | Err(_) => {}
    }
    directory
        .set_unused(true)
        .context("mark the cluster as unused")?;
    directory.set_cluster(key.cluster_id())
}

/// Until a signal, or until a storage failure ends the node.
async fn wait_for_end(
    handle: &Handle,
    directory: &DataDirectory,
    loops: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut failed = handle.consensus().failed();
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        removed = removal::watch(handle, directory) => removed.map(|never| match never {}),
        failure = failed.wait_for(Option::is_some) => {
            let why = failure.ok().and_then(|why| why.clone()).unwrap_or_default();
            Err(anyhow!("{why}"))
        }
        ended = loops.join_next() => Err(anyhow!("a loop of the node has ended: {ended:?}")),
    }
}
