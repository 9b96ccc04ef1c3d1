//! One history from one seed: a cluster is founded, grows, suffers, and must be whole again in the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::EmptyNode;
use state_machine::{
    AdmitNode, Command, CreateJoinToken, CreateQueue, ExperimentPhase, FoundCluster,
};
use types::{ClusterId, NodeFacts, Timestamp};

use crate::adversary;
use crate::clients::Client;
use crate::names::name;
use crate::node::Node;
use crate::plant::{Point, Setup};
use crate::random::Random;
use crate::runtime::seeded;
use crate::world::{Counts, World};

/// Faults end after this virtual time.
const FAULTS_END_MS: u64 = 60_000;
/// Then, within so long: one leader, everything answered, every experiment over, all replicas equal. Four attempts of the
/// longest ordinary work, a lease each.
const WHOLE_MS: u64 = 240_000;
/// And so long if long work is among it: one attempt with its preparation, and a long lease before it.
const WHOLE_WITH_LONG_WORK_MS: u64 = 2_400_000;
/// And a write is served again so soon after the faults: an election, and a few tries of a client that waits 4 s for a
/// node which does not know the new leader yet.
const HEALED_MS: u64 = 20_000;
/// Elections that the founding and each fault may cost: pre-votes keep nodes that cannot win from raising the term.
const TERMS_PER_FAULT: u64 = 6;
/// Time to found a cluster in fair weather.
const FOUNDING_MS: u64 = 30_000;
/// Time between two looks whether all is over.
const LOOK: Duration = Duration::from_millis(500);

/// How a history went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything held.
    Sound,
    /// Something that must never be, was.
    Wrong(String),
    /// Something that must happen, did not.
    Stuck(String),
}

/// A history in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it went.
    pub verdict: Verdict,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Machines.
    pub machines: u64,
    /// Things that happened.
    pub counts: Counts,
    /// Steps at which nodes crashed.
    pub crashed_at: BTreeSet<Point>,
    /// Highest term.
    pub terms: u64,
    /// Log entries.
    pub entries: u64,
    /// Experiments.
    pub experiments: usize,
    /// Those of them that failed because they lost more machines than they bear.
    pub bereft: usize,
    /// Attempts that they took.
    pub attempts: usize,
    /// Events in the trace.
    pub events: u64,
    /// Hash over all events and their times: the same seed gives the same.
    pub trace: u64,
    /// BLAKE3 of the last state.
    pub state_hash: [u8; 32],
}

/// Runs the history of one seed.
///
/// # Panics
/// If tokio cannot build a runtime without drivers.
#[must_use]
pub fn run(seed: u64, setup: &Setup) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    runtime.block_on(seeded(seed, Box::pin(history(seed, setup))))
}

async fn history(seed: u64, setup: &Setup) -> Report {
    let world = World::new(Random::new(seed), setup);
    let verdict = tokio::select! {
        biased;
        () = world.stop.notified() => None,
        stuck = live(&world) => Some(stuck),
    };
    let wrong = world.with(|inner| inner.wrong.clone());
    let verdict = match (wrong, verdict) {
        (Some(what), _) => Verdict::Wrong(what),
        (None, Some(Err(what))) => Verdict::Stuck(what),
        (None, _) => Verdict::Sound,
    };
    let report = report(&world, verdict);
    for node in 0..world.size() {
        // Nodes and world hold each other.
        world.crash(node, true);
    }
    report
}

fn report(world: &Arc<World>, verdict: Verdict) -> Report {
    let terms = (0..world.size()).filter_map(|node| world.running(node));
    let terms = terms.map(|(node, _)| node.leadership().borrow().term).max();
    let virtual_ms = world.now();
    world.with(|inner| {
        let state = &inner.invariants.reference;
        let attempts = state
            .experiments()
            .map(|experiment| experiment.attempts.len());
        let bereft = state.experiments().filter(|experiment| {
            matches!(&experiment.phase, ExperimentPhase::Ended { cause, .. } if cause.is_node_failure())
        });
        Report {
            verdict,
            virtual_ms,
            machines: inner.hosts.len() as u64,
            counts: inner.counts,
            crashed_at: inner.crashed_at.clone(),
            terms: terms.unwrap_or(0),
            entries: state.applied().0,
            experiments: state.experiments().count(),
            bereft: bereft.count(),
            attempts: attempts.sum(),
            events: inner.trace.events,
            trace: inner.trace.hash,
            state_hash: state.state_hash(),
        }
    })
}

/// The whole life of the cluster; an error says what did not happen in time.
async fn live(world: &Arc<World>) -> Result<(), String> {
    for node in 0..world.size() {
        world.start(node);
    }
    found(world).await?;
    let clients = world.range(2..6);
    let operations = world.range(10..60);
    let pause = world.range(200..2_000);
    let people = (0..clients).map(|number| {
        let client = Client::new(Arc::clone(world), number);
        client.run(operations, pause)
    });
    let people = join_all(people);
    let storms = async {
        adversary::run(Arc::clone(world), FAULTS_END_MS).await;
        heal(world, clients).await
    };
    let deadline = Duration::from_millis(FAULTS_END_MS + WHOLE_MS);
    let both = futures::future::join(people, storms);
    match tokio::time::timeout(deadline, both).await {
        Ok((_, healed)) => healed?,
        Err(_elapsed) => {
            let missing = whole(world).err().unwrap_or_default();
            return Err(format!("requests are not answered: {missing}"));
        }
    }
    become_whole(world).await?;
    // A last write and read through the mended cluster.
    let mut last = Client::new(Arc::clone(world), clients + 1);
    let queue = CreateQueue {
        name: "after".parse().expect("a queue name"),
        priority: 1,
    };
    let probe = async {
        last.write(Command::CreateQueue(queue)).await;
        last.read().await;
    };
    tokio::time::timeout(Duration::from_secs(30), probe)
        .await
        .map_err(|_elapsed| "the mended cluster takes no write".to_owned())?;
    become_whole(world).await?;
    let end = world.with(|inner| inner.invariants.check_end(&inner.invariants.reference));
    if let Err(what) = end {
        world.fail(&what);
    }
    Ok(())
}

/// The first write after the faults.
async fn heal(world: &Arc<World>, person: u64) -> Result<(), String> {
    let begun = world.now();
    let mut first = Client::new(Arc::clone(world), person);
    let queue = CreateQueue {
        name: "healed".parse().expect("a queue name"),
        priority: 1,
    };
    let write = first.write(Command::CreateQueue(queue));
    if tokio::time::timeout(Duration::from_millis(HEALED_MS), write)
        .await
        .is_err()
    {
        let missing = whole(world).err().unwrap_or_default();
        return Err(format!(
            "no write in {HEALED_MS} ms after the faults: {missing}"
        ));
    }
    let healed = world.now() - begun;
    world.with(|inner| inner.counts.healed_after_ms = healed);
    check_terms(world)
}

/// Nodes that are cut off or slow must not raise the term without end (fault: elections without end).
fn check_terms(world: &World) -> Result<(), String> {
    let nodes = (0..world.size()).filter_map(|node| world.running(node));
    let terms = nodes.map(|(node, _)| node.leadership().borrow().term).max();
    let faults = world.with(|inner| inner.counts.faults + inner.counts.crashes_inside);
    let most = (1 + faults) * TERMS_PER_FAULT;
    match terms {
        Some(terms) if terms > most => Err(format!("{terms} terms after {faults} faults")),
        _ => Ok(()),
    }
}

async fn become_whole(world: &Arc<World>) -> Result<(), String> {
    let begun = world.now();
    let mut long_work_until = begun;
    loop {
        let missing = match whole(world) {
            Ok(()) => return Ok(()),
            Err(missing) => missing,
        };
        let has_long = world.with(|inner| {
            let mut all = inner.invariants.reference.experiments();
            all.any(|experiment| experiment.is_live() && experiment.spec.name.starts_with("long"))
        });
        let now = world.now();
        if has_long {
            long_work_until = now;
        }
        if now > long_work_until + WHOLE_MS || now > begun + WHOLE_WITH_LONG_WORK_MS {
            return Err(missing);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether nothing is left to do, else what is missing.
fn whole(world: &Arc<World>) -> Result<(), String> {
    let nodes: Vec<Arc<Node>> = (0..world.size())
        .filter_map(|node| world.running(node).map(|(node, _)| node))
        .collect();
    let leaders: Vec<_> = nodes.iter().filter(|node| node.is_leader()).collect();
    let [leader] = leaders.as_slice() else {
        return Err(format!("{} leaders", leaders.len()));
    };
    let state = leader.state();
    let live = state
        .experiments()
        .filter(|experiment| experiment.is_live());
    let live: Vec<_> = live
        .map(|experiment| format!("{} {:?}", experiment.id, experiment.phase))
        .collect();
    if !live.is_empty() {
        return Err(format!("not over: {}", live.join(", ")));
    }
    let held = world.with(|inner| {
        let hosts = inner.hosts.iter();
        hosts.map(|host| host.holdings.len()).sum::<usize>()
    });
    if held > 0 {
        return Err(format!("{held} attempts are not released"));
    }
    let replicas: BTreeSet<u64> = leader
        .raft
        .voter_ids()
        .chain(leader.raft.learner_ids())
        .collect();
    for node in nodes.iter().filter(|node| replicas.contains(&node.number)) {
        let other = node.state();
        if other.applied() != state.applied() {
            return Err(format!(
                "n{} is at {} of {}",
                node.number,
                other.applied(),
                state.applied()
            ));
        }
        if other.state_hash() != state.state_hash() {
            world.fail(&format!(
                "invariant 2: n{} has another state at the end",
                node.number
            ));
        }
    }
    let missing = replicas
        .iter()
        .find(|number| !nodes.iter().any(|node| node.number == **number));
    missing.map_or(Ok(()), |number| Err(format!("n{number} does not run")))
}

/// The first node makes the cluster and lets the others in.
async fn found(world: &Arc<World>) -> Result<(), String> {
    let founding = async {
        let node = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Some((node, _)) = world.running(0) {
                break node;
            }
        };
        let founder = [(0, EmptyNode::new())];
        let founder: std::collections::BTreeMap<_, _> = founder.into();
        if let Err(error) = node.raft.initialize(founder).await {
            return Err(format!("the founder cannot: {error}"));
        }
        for command in first_commands(world.size()) {
            while node.propose_as_node(command.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(Duration::from_millis(FOUNDING_MS), founding).await {
        Ok(founded) => founded,
        Err(_elapsed) => Err("the cluster is not founded".to_owned()),
    }
}

fn first_commands(size: u64) -> Vec<Command> {
    let token = || "t-1".parse().expect("a token id");
    let mut commands = vec![
        Command::FoundCluster(FoundCluster {
            cluster: ClusterId([1; 32]),
            public_key: Vec::new(),
            founder: name(0),
            facts: facts(0),
            timing: "lan".to_owned(),
        }),
        Command::CreateJoinToken(CreateJoinToken {
            id: token(),
            verifier: [0; 32],
            uses: 100,
            expires_at: Timestamp(u64::MAX),
        }),
    ];
    commands.extend((1..size).map(|number| {
        Command::AdmitNode(AdmitNode {
            token: token(),
            node: name(number),
            facts: facts(number),
        })
    }));
    commands
}

fn facts(number: u64) -> NodeFacts {
    NodeFacts {
        name: format!("box{number}"),
        version: String::new(),
        control_addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        takes_work: true,
        may_vote: true,
        keeps_blobs: number != 1,
        labels: Vec::new(),
    }
}
