//! What goes wrong, and its repair.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::network::Links;
use crate::node::Node;
use crate::runtime::spawn;
use crate::world::{World, index};

/// One fault after the other until `end_ms`; each repairs itself, at the latest then.
pub(crate) async fn run(world: Arc<World>, end_ms: u64) {
    world.with(|inner| inner.storms = true);
    while world.now() < end_ms {
        let longest = if world.chance(300) { 6_000 } else { 1_500 };
        let pause = world.range(50..longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world.with(|inner| inner.counts.faults += 1);
        fault(&world).await;
    }
    world.calm();
}

async fn fault(world: &Arc<World>) {
    // Whoever leads is hit more often than by chance.
    let victim = if world.chance(350) {
        leader(world)
    } else {
        None
    };
    let node = victim.map_or_else(|| world.range(0..world.size()), |node| node.number);
    match world.range(0..100) {
        0..12 => crash(world, node, false),
        12..20 => crash(world, node, true),
        20..28 => stall_and_cut(world),
        28..30 => blackout(world),
        30..42 => pause(world, node),
        42..54 => partition(world),
        54..62 => isolate(world, node, 200..15_000),
        62..69 => one_way(world, node),
        69..74 => not_transitive(world, node),
        74..80 => clog(world, node),
        80..88 => storm(world),
        88..94 => slow_disk(world, node),
        _ => hand_over(world, world.range(0..world.size())).await,
    }
}

fn crash(world: &Arc<World>, node: u64, power: bool) {
    let down = world.range(20..15_000);
    world.note(
        || format!("n{node} crashes, power lost: {power}; back in {down} ms"),
        &[1, node],
    );
    world.crash(node, power);
    world.restart_after(node, down);
}

/// All machines lose power at once.
fn blackout(world: &Arc<World>) {
    world.note(|| "all power is lost".to_owned(), &[2]);
    for node in 0..world.size() {
        world.crash(node, true);
        let down = world.range(100..4_000);
        world.restart_after(node, down);
    }
}

/// SIGSTOP of the node process; its holders run on.
fn pause(world: &Arc<World>, node: u64) {
    let Some((_, life)) = world.running(node) else {
        return;
    };
    let longest = if world.chance(600) { 3_000 } else { 20_000 };
    let lasts = world.range(200..longest);
    world.note(|| format!("n{node} is paused for {lasts} ms"), &[3, node]);
    life.pause();
    later(lasts, async move { life.resume() });
}

/// The leader stops for longer than an election takes; when it goes on, some node loses everybody for longer than its
/// leases last. What the old leader promised meanwhile must bind the new one.
fn stall_and_cut(world: &Arc<World>) {
    let Some((_, life)) = leader(world).and_then(|node| world.running(node.number)) else {
        return;
    };
    let lasts = world.range(700..2_500);
    world.note(
        || format!("the leader is paused for {lasts} ms, then a node is cut off"),
        &[13],
    );
    life.pause();
    let world = Arc::clone(world);
    later(lasts, async move {
        life.resume();
        let soon = world.range(5..800);
        tokio::time::sleep(Duration::from_millis(soon)).await;
        if world.with(|inner| inner.storms) {
            // The last ones are the workers.
            let node = world.size() - 1 - world.range(0..2);
            isolate(&world, node, 5_500..9_000);
        }
    });
}

fn partition(world: &Arc<World>) {
    let lasts = world.range(200..15_000);
    world.note(|| format!("partition for {lasts} ms"), &[4]);
    cut(world, lasts, |inner, size| {
        let sides: Vec<_> = (0..size).map(|_| inner.chance(500)).collect();
        let is_apart = move |from: u64, to: u64| sides[index(from)] != sides[index(to)];
        Box::new(is_apart)
    });
}

fn isolate(world: &Arc<World>, node: u64, lasts: Range<u64>) {
    let lasts = world.range(lasts);
    world.note(|| format!("n{node} is isolated for {lasts} ms"), &[5, node]);
    cut(world, lasts, move |_, _| {
        Box::new(move |from, to| from == node || to == node)
    });
}

/// A node hears and is not heard, or the other way round.
fn one_way(world: &Arc<World>, node: u64) {
    let lasts = world.range(200..15_000);
    world.note(
        || format!("one-way cut at n{node} for {lasts} ms"),
        &[6, node],
    );
    cut(world, lasts, move |random, _| {
        let is_mute = random.chance(500);
        Box::new(move |from, to| if is_mute { from == node } else { to == node })
    });
}

/// Two nodes do not see each other; everybody else sees both.
fn not_transitive(world: &Arc<World>, node: u64) {
    let lasts = world.range(200..20_000);
    let other = (node + 1) % world.size();
    world.note(
        || format!("n{node} and n{other} cut for {lasts} ms"),
        &[7, node],
    );
    cut(world, lasts, move |_, _| {
        Box::new(move |from, to| (from == node && to == other) || (from == other && to == node))
    });
}

type Apart = Box<dyn Fn(u64, u64) -> bool>;

fn cut(
    world: &Arc<World>,
    lasts: u64,
    choose: impl FnOnce(&mut crate::random::Random, u64) -> Apart,
) {
    let size = world.size();
    let pairs: Vec<_> = world.with(|inner| {
        let is_apart = choose(&mut inner.random, size);
        let all = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
        let pairs: Vec<_> = all
            .filter(|(from, to)| from != to && is_apart(*from, *to))
            .collect();
        inner.links.cut.extend(&pairs);
        pairs
    });
    let world = Arc::clone(world);
    later(lasts, async move {
        world.with(|inner| {
            for pair in &pairs {
                inner.links.cut.remove(pair);
            }
        });
    });
}

/// What is sent from and to a node waits, and arrives all together.
fn clog(world: &Arc<World>, node: u64) {
    let lasts = world.range(100..6_000);
    let open_at = world.now() + lasts;
    world.note(|| format!("n{node} is clogged for {lasts} ms"), &[8, node]);
    let size = world.size();
    world.with(|inner| {
        for other in (0..size).filter(|other| *other != node) {
            inner.links.clogged.insert((node, other), open_at);
            inner.links.clogged.insert((other, node), open_at);
        }
    });
    let world = Arc::clone(world);
    later(lasts, async move {
        let now = world.now();
        world.with(|inner| inner.links.clogged.retain(|_, open_at| *open_at > now));
    });
}

/// Loss, repeats, disorder and delay on all links.
fn storm(world: &Arc<World>) {
    let lasts = world.range(500..12_000);
    world.note(|| format!("storm for {lasts} ms"), &[9]);
    world.with(|inner| {
        let random = &mut inner.random;
        inner.links.loss_permille = random.range(0..400);
        inner.links.twice_permille = random.range(0..300);
        inner.links.late_permille = random.range(0..60);
        let longest = [30, 150, 900][random.index(3)];
        inner.links.longest_delay_ms = random.range(10..longest);
    });
    let world = Arc::clone(world);
    later(lasts, async move { world.good_weather() });
}

fn slow_disk(world: &Arc<World>, node: u64) {
    let lasts = world.range(1_000..15_000);
    world.note(
        || format!("n{node} has a slow disk for {lasts} ms"),
        &[10, node],
    );
    world.with(|inner| inner.hosts[index(node)].slow_disk = true);
    let world = Arc::clone(world);
    later(lasts, async move {
        world.with(|inner| inner.hosts[index(node)].slow_disk = false);
    });
}

fn leader(world: &World) -> Option<Arc<Node>> {
    (0..world.size()).find_map(|node| {
        let (node, _) = world.running(node)?;
        node.is_leader().then_some(node)
    })
}

/// An operator moves the lead.
async fn hand_over(world: &Arc<World>, to: u64) {
    let Some(leader) = leader(world) else { return };
    if to != leader.number && leader.raft.voter_ids().any(|voter| voter == to) {
        world.note(
            || format!("n{} hands over to n{to}", leader.number),
            &[11, to],
        );
        // A leader that died meanwhile hands nothing over.
        let trigger = leader.raft.trigger();
        let handing = trigger.transfer_leader(to);
        drop(tokio::time::timeout(Duration::from_millis(50), handing).await);
    }
}

/// Repairs something after a while.
fn later(after_ms: u64, repair: impl Future<Output = ()> + Send + 'static) {
    spawn(async move {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        repair.await;
    });
}

impl World {
    fn good_weather(&self) {
        self.with(|inner| {
            let good = Links::default();
            inner.links.loss_permille = good.loss_permille;
            inner.links.twice_permille = good.twice_permille;
            inner.links.late_permille = good.late_permille;
            inner.links.longest_delay_ms = good.longest_delay_ms;
        });
    }

    /// The faults are over: everything is up, connected and fast again.
    fn calm(self: &Arc<Self>) {
        self.note(|| "the faults are over".to_owned(), &[12]);
        self.good_weather();
        let lives: Vec<_> = (0..self.size())
            .filter_map(|node| self.running(node))
            .collect();
        self.with(|inner| {
            inner.storms = false;
            inner.links.cut.clear();
            inner.links.clogged.clear();
            for host in &mut inner.hosts {
                host.slow_disk = false;
                host.is_on = true;
            }
        });
        lives.iter().for_each(|(_, life)| life.resume());
        for node in 0..self.size() {
            self.start(node);
        }
    }
}
