//! A random mix of faults from a seed, under load.
//!
//! `MUSTER_CHAOS_ROUNDS=N` runs N clusters one after the other, each from the next seed after `MUSTER_CHAOS_SEED`,
//! and prints what was done to them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::harness::{Node, PATIENCE, wait_until};
use crate::history::Tally;
use crate::lab::{NetLab, say, seen_by, split_leader, stay};
use crate::load::{Plan, under_load_of};
use crate::outages::{kill_all, start_all};

/// How long faults happen in a round.
const ROUND: Duration = Duration::from_secs(25);
/// How long one fault lasts, in milliseconds: around an election, or around a lease.
const FAULT_MS: [std::ops::Range<u64>; 3] = [50..700, 200..2_000, 1_000..8_000];
/// The pause after a fault, in milliseconds.
const CALM_MS: std::ops::Range<u64> = 0..1_500;

/// What happens to a node process or its machine.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillNode,
    KillMachine,
    Pause,
    Restart,
    /// All machines at once.
    Blackout,
    None,
}

const BLOWS: [Blow; 8] = [
    Blow::KillNode,
    Blow::KillNode,
    Blow::KillMachine,
    Blow::Pause,
    Blow::Pause,
    Blow::Restart,
    Blow::Blackout,
    Blow::None,
];

/// What happens to the network.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Halves,
    Isolated,
    OneWay,
    Pair,
    Unplugged,
    Flapping,
}

const CUTS: [Cut; 6] = [
    Cut::Halves,
    Cut::Isolated,
    Cut::OneWay,
    Cut::Pair,
    Cut::Unplugged,
    Cut::Flapping,
];

#[test]
fn a_random_mix_of_faults_violates_nothing() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let rounds = number("MUSTER_CHAOS_ROUNDS").unwrap_or(1);
    let first = number("MUSTER_CHAOS_SEED").unwrap_or_else(rand::random);
    let (mut faults, mut total) = (BTreeMap::new(), Tally::default());
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        say(&format!("chaos: MUSTER_CHAOS_SEED={seed}"));
        let Some(lab) = NetLab::new() else { return };
        // Every third time with five.
        let names = if seed.is_multiple_of(3) { 5 } else { 3 };
        let nodes = lab.cluster_of(&["a", "b", "c", "d", "e"][..names], &["--new"]);
        let voters = let_all_vote(&nodes);
        let mut counts = BTreeMap::new();
        let plan = Plan {
            seed,
            clients: if names == 5 { 1 } else { 2 },
            ..Plan::default()
        };
        let tally = under_load_of(&lab, &nodes, plan, || {
            rage(&lab, &nodes, StdRng::seed_from_u64(seed), &mut counts);
        });
        say(&format!("chaos: {voters} voters, {counts:?}"));
        for (kind, count) in counts {
            *faults.entry(kind).or_insert(0) += count;
        }
        total += tally;
    }
    let sum: usize = faults.values().sum();
    say(&format!(
        "chaos: {rounds} runs, {sum} faults {faults:?}, {total}, 0 violations"
    ));
}

/// By the rule three of five vote; a person may want all. Gives how many do.
fn let_all_vote(nodes: &[Node]) -> usize {
    if nodes.len() > 3 {
        for node in nodes {
            let promote = ["node", "promote", &node.name];
            wait_until(PATIENCE, "it is promoted", || {
                (nodes[0].muster(&promote).code == 0).then_some(())
            });
        }
    }
    let voters = || nodes.iter().map(|node| seen_by(node).voters.len());
    wait_until(PATIENCE, "all vote, and all know", || {
        voters()
            .all(|count| count == nodes.len())
            .then_some(nodes.len())
    })
}

/// One fault after the other, of nodes and of the network at the same time.
fn rage(lab: &NetLab, nodes: &[Node], mut random: StdRng, counts: &mut BTreeMap<String, usize>) {
    let end = Instant::now() + ROUND;
    while Instant::now() < end {
        let victim = if random.random_bool(0.5) {
            split_leader(nodes).0
        } else {
            nodes.choose(&mut random).expect("there are nodes")
        };
        let blow = *BLOWS.choose(&mut random).expect("a blow");
        let cut = *CUTS.choose(&mut random).expect("a cut");
        for name in [format!("{blow:?}"), format!("{cut:?}")] {
            if name != "None" {
                *counts.entry(name).or_default() += 1;
            }
        }
        let range = FAULT_MS.choose(&mut random).expect("a range").clone();
        let lasts = Duration::from_millis(random.random_range(range));
        cut_network(lab, nodes, cut, &mut random);
        strike(nodes, victim, blow);
        if matches!(cut, Cut::Flapping) {
            flap(lab, &nodes[0], lasts);
        } else {
            stay(lasts);
        }
        // Either ends first.
        if random.random_bool(0.5) {
            mend(nodes, victim, blow);
            mend_network(lab, nodes);
        } else {
            mend_network(lab, nodes);
            mend(nodes, victim, blow);
        }
        stay(Duration::from_millis(random.random_range(CALM_MS)));
    }
    for node in nodes {
        wait_until(PATIENCE, "it answers again", || {
            (node.muster(&["ls"]).code == 0).then_some(())
        });
    }
}

fn strike(nodes: &[Node], victim: &Node, blow: Blow) {
    match blow {
        Blow::Blackout => kill_all(nodes),
        Blow::KillNode => victim.kill(),
        Blow::KillMachine => victim.kill_machine(),
        Blow::Pause => victim.pause(),
        Blow::Restart => {
            victim.terminate();
        }
        Blow::None => {}
    }
}

fn mend(nodes: &[Node], victim: &Node, blow: Blow) {
    match blow {
        Blow::Blackout => start_all(nodes),
        Blow::KillNode | Blow::KillMachine | Blow::Restart => victim.up(&[]),
        Blow::Pause => victim.resume(),
        Blow::None => {}
    }
}

fn cut_network(lab: &NetLab, nodes: &[Node], cut: Cut, random: &mut StdRng) {
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.shuffle(random);
    match cut {
        Cut::Halves => {
            let (left, right) = order.split_at(random.random_range(1..order.len()));
            lab.lan.cut(left, right);
        }
        Cut::Isolated => lab.lan.isolate(order[0]),
        Cut::OneWay => {
            let (left, right) = order.split_at(random.random_range(1..order.len()));
            lab.lan.cut_one_way(left, right);
        }
        Cut::Pair => lab.lan.cut(&order[..1], &order[1..2]),
        Cut::Unplugged => lab.lan.unplug(order[0]),
        Cut::Flapping => {}
    }
}

/// In and out with a cable, some times a second.
fn flap(lab: &NetLab, node: &Node, lasts: Duration) {
    let end = Instant::now() + lasts;
    while Instant::now() < end {
        lab.lan.unplug(node);
        stay(Duration::from_millis(120));
        lab.lan.plug(node);
        stay(Duration::from_millis(180));
    }
}

fn mend_network(lab: &NetLab, nodes: &[Node]) {
    lab.lan.heal();
    for node in nodes {
        lab.lan.plug(node);
    }
}
