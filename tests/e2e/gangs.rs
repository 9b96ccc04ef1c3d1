//! Experiments on several nodes: placed whole, told of each other, over together.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use service::view::{CompareView, ExperimentDetail, GroupReply, GroupView, SubmitReply, WhyView};

use crate::harness::{
    Lab, Node, PATIENCE, entries, leader_and_others, processes_whose, read_lossy, wait_until,
};

/// Adds one number of each rank at the first, as an all-reduce does, until a file is there; says what it was told and
/// each sum. Whoever loses touch with another fails.
const REDUCE: &str = r#"
import os, socket, sys, time
names = ["RANK", "NODE_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "PET_NNODES", "PET_NODE_RANK",
         "PET_NPROC_PER_NODE", "MUSTER_RANK", "MUSTER_NODES"]
print(" ".join(f"{name}={os.environ[name]}" for name in names))
same = os.environ["MASTER_ADDR"] == os.environ["PET_MASTER_ADDR"]
assert same and os.environ["MASTER_PORT"] == os.environ["PET_MASTER_PORT"]
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
meeting = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
print("meet at %s:%d" % meeting)
if rank == 0:
    server = socket.create_server(("", meeting[1]))
    links = [server.accept()[0] for _ in range(size - 1)]
else:
    while True:
        try:
            links = [socket.create_connection(meeting)]
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
files = [link.makefile("rw") for link in links]
def read(file):
    line = file.readline()
    if not line:
        sys.exit("lost touch")
    return int(line)
def write(file, number):
    file.write(f"{number}\n")
    file.flush()
rounds, total = 0, 1
while total:
    if rank == 0:
        total = rank + 1 + sum(read(file) for file in files)
        if os.path.exists(sys.argv[1]):
            total = 0
        for file in files:
            write(file, total)
    else:
        write(files[0], rank + 1)
        total = read(files[0])
    rounds += 1
    if rounds == 1:
        print("sum", total)
    time.sleep(0.05)
print("end")
"#;

/// Submits [`REDUCE`] on so many nodes.
fn submit_reduce(node: &Node, nodes: &str, stop: &Path) -> String {
    let stop = stop.display().to_string();
    node.submit(&["--nodes", nodes, "--", "python3", "-c", REDUCE, &stop])
}

fn names(attempt: &service::view::AttemptView) -> Vec<&str> {
    attempt
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect()
}

fn of<'a>(nodes: &'a [Node], name: &str) -> &'a Node {
    nodes.iter().find(|node| node.name == name).unwrap()
}

/// Waits until every rank of an attempt has said that all of them talk to each other.
fn wait_sums(node: &Node, job: &str, attempt: &str, ranks: usize, sum: &str) -> String {
    wait_until(PATIENCE, "all ranks have the sum", || {
        let output = node.muster(&["logs", job, "--attempt", attempt]);
        let found = |rank: usize| output.out.contains(&format!("[{rank}] sum {sum}\n"));
        (output.code == 0 && (0..ranks).all(found)).then_some(output.out)
    })
}

#[test]
fn every_rank_is_told_of_the_others_and_reaches_them() {
    let lab = Lab::new();
    let nodes = lab.three();
    let stop = lab.path().join("stop");
    let job = submit_reduce(&nodes[0], "3", &stop);
    let output = wait_sums(&nodes[1], &job, "1", 3, "6");
    let running = nodes[0].wait_state(&job, &["running"]);
    let attempt = &running.attempts[0];
    let on: BTreeSet<_> = names(attempt).into_iter().collect();
    assert_eq!(on.len(), 3, "{attempt:?}");
    assert!(
        attempt.ranks.iter().all(|rank| rank.started_at.is_some()),
        "{attempt:?}"
    );
    for rank in 0..3 {
        let told = format!(
            "[{rank}] RANK={rank} NODE_RANK={rank} LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 WORLD_SIZE=3 PET_NNODES=3 PET_NODE_RANK={rank} PET_NPROC_PER_NODE=1 MUSTER_RANK={rank} MUSTER_NODES=3\n"
        );
        assert!(output.contains(&told), "{output}");
    }
    let meetings: BTreeSet<_> = output
        .lines()
        .filter_map(|line| line.split_once("meet at "))
        .collect();
    assert_eq!(
        meetings
            .iter()
            .map(|(_, at)| at)
            .collect::<BTreeSet<_>>()
            .len(),
        1
    );
    let listed = nodes[2].muster(&["ls"]).success();
    assert!(listed.contains(&names(attempt).join(",")), "{listed}");

    fs::write(&stop, "").unwrap();
    let done = nodes[0].wait_end(&job);
    assert_eq!(done.summary.state, "finished", "{done:?}");
    let ranks = &done.attempts[0].ranks;
    assert!(
        ranks
            .iter()
            .all(|rank| rank.cause.as_ref().unwrap().kind == "finished")
    );
    // All output is kept, seen from anywhere, and that of one rank can be asked for.
    for node in &nodes {
        let all = node.muster(&["logs", &job]).success();
        for rank in 0..3 {
            assert!(all.contains(&format!("[{rank}] end\n")), "{all}");
            let one = node
                .muster(&["logs", &job, "--rank", &rank.to_string()])
                .success();
            assert!(
                one.starts_with(&format!("RANK={rank} ")) && one.ends_with("end\n"),
                "{one}"
            );
        }
    }
    let none = nodes[0].muster(&["logs", &job, "--rank", "3"]);
    assert!(
        none.code != 0 && none.err.contains("ranks are 0 to 2"),
        "{}",
        none.err
    );
    let page = nodes[0].muster(&["show", &job]).success();
    assert!(
        page.contains("rank 2") && page.contains(": finished"),
        "{page}"
    );
}

#[test]
fn ranks_are_followed_to_the_end_of_the_attempt_and_each_line_comes_once() {
    let lab = Lab::new();
    let nodes = lab.three();
    let stop = lab.path().join("stop");
    let script = "echo hello from $RANK; [ $RANK = 1 ] && exit 0; while [ ! -e $1 ]; do sleep 0.05; done; echo bye from $RANK";
    let path = stop.display().to_string();
    let job = nodes[0].submit(&["--nodes", "2", "--", "sh", "-c", script, "-", &path]);
    let follow = |flags: &[&str]| {
        let mut command = nodes[2].client(&["logs", "-f", &job]);
        let command = command.args(flags).stdout(Stdio::piped());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let (one, all) = (follow(&["--rank", "1"]), follow(&[]));
    wait_until(PATIENCE, "rank 1 is over while rank 0 goes on", || {
        let detail = nodes[0].show(&job);
        let ranks = &detail.attempts.first()?.ranks;
        let over = ranks[1].cause.as_ref()?;
        assert_eq!(over.kind, "finished", "{ranks:?}");
        ranks[0].cause.is_none().then_some(())
    });
    fs::write(&stop, "").unwrap();
    assert_eq!(nodes[0].wait_end(&job).summary.state, "finished");
    let text = |follower: Child| {
        let output = follower.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(text(one), "hello from 1\n");
    let all = text(all);
    let mut lines: Vec<_> = all.lines().collect();
    lines.sort_unstable();
    let expected = ["[0] bye from 0", "[0] hello from 0", "[1] hello from 1"];
    assert_eq!(lines, expected);
}

#[test]
fn a_gang_whose_machine_is_lost_is_placed_anew_as_a_whole() {
    let lab = Lab::new();
    let nodes = lab.three();
    let stop = lab.path().join("stop");
    let (leader, _) = leader_and_others(&nodes);
    // Two of three: the leader lives on, and there is room for another attempt.
    let spare = leader.name.clone();
    let job = submit_reduce(leader, "2", &stop);
    wait_sums(leader, &job, "1", 2, "3");
    let first = leader.show(&job);
    let placed = names(&first.attempts[0]);
    let lost = of(&nodes, placed.iter().find(|name| **name != spare).unwrap());
    let witness = leader;
    // Of two the other keeps the copy.
    let kept = of(
        &nodes,
        placed.iter().find(|name| **name != lost.name).unwrap(),
    );
    wait_until(PATIENCE, "the copy has the sum", || {
        let copies = entries(&kept.data().join("mirror"));
        let files = copies.iter().flat_map(|attempt| entries(attempt));
        let texts = files.map(|file| read_lossy(&file)).collect::<String>();
        texts.contains("sum").then_some(())
    });
    lost.kill_machine();
    let second = wait_until(PATIENCE, "it runs as attempt 2", || {
        let output = witness.muster(&["--json", "show", &job]);
        let detail: ExperimentDetail = serde_json::from_str(&output.out).ok()?; // an election may be under way
        detail.attempts.get(1)?.started_at?;
        Some(detail)
    });
    // The other rank lost touch and failed long before the lease was over: that is no failure of the experiment.
    let cause = second.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "node-lost", "{cause:?}");
    let evidence = cause.evidence.join("\n");
    assert!(
        evidence.contains(&format!("on {}: node lost", lost.name)),
        "{evidence}"
    );
    assert!(evidence.contains("exit code 1"), "{evidence}");
    assert!(
        !names(&second.attempts[1]).contains(&lost.name.as_str()),
        "{second:?}"
    );
    wait_sums(witness, &job, "2", 2, "3");
    fs::write(&stop, "").unwrap();
    let done = witness.wait_end(&job);
    assert_eq!(
        (done.summary.state.as_str(), done.attempts.len()),
        ("finished", 2)
    );
    // What the lost rank had said is kept.
    let first = witness.muster(&["logs", &job, "--attempt", "1"]).success();
    let both = (0..2).all(|rank| first.contains(&format!("[{rank}] sum 3\n")));
    assert!(both, "{first}");
}

#[test]
fn a_gang_that_misses_a_machine_waits_and_says_for_how_many() {
    let lab = Lab::new();
    let nodes = lab.three();
    let stop = lab.path().join("stop");
    let (leader, others) = leader_and_others(&nodes);
    let job = submit_reduce(leader, "3", &stop);
    wait_sums(leader, &job, "1", 3, "6");
    let lost = others[0];
    lost.kill_machine();
    let why = wait_until(PATIENCE, "it waits for room", || {
        let output = leader.muster(&["--json", "why", &job]);
        let why: WhyView = serde_json::from_str(&output.out).ok()?; // an election may be under way
        (why.state == "queued").then_some(why)
    });
    assert!(why.summary.contains("2 of the 3 have room now"), "{why:?}");
    assert!(why.possible_ever, "{why:?}");
    let missing = why
        .nodes
        .iter()
        .find(|node| node.verdict != "fits")
        .unwrap();
    assert_eq!(missing.node.name, lost.name);
    assert!(missing.reasons[0].contains("suspect"), "{missing:?}");
    assert_eq!(leader.show(&job).attempts.len(), 1);
    // The others are free meanwhile.
    let small = leader.submit(&["--", "true"]);
    assert_eq!(leader.wait_end(&small).summary.state, "finished");
    lost.up(&[]);
    wait_sums(leader, &job, "2", 3, "6");
    fs::write(&stop, "").unwrap();
    assert_eq!(leader.wait_end(&job).summary.state, "finished");
}

#[test]
fn a_gang_larger_than_the_cluster_waits_or_is_refused_with_the_reason() {
    let lab = Lab::new();
    let node = lab.one();
    let job = node.submit(&["--nodes", "2", "--", "true"]);
    let why: WhyView = node.ask(&["why", &job]);
    assert!(!why.possible_ever, "{why:?}");
    let never = "this cluster could never run it: it asks for 1 cpus, 1 GiB memory, on each of 2 nodes, all at once, and 1 of its 1 nodes could run a part of it";
    assert!(why.summary.starts_with(never), "{why:?}");
    let refused = node.muster(&["run", "--nodes", "2", "--fail-if-impossible", "--", "true"]);
    assert!(refused.code != 0, "{}", refused.out);
    assert!(
        refused
            .err
            .contains("1 of 1 machines could run a part of it"),
        "{}",
        refused.err
    );
    let too_many = node.muster(&["run", "--nodes", "65", "--", "true"]);
    assert!(too_many.err.contains("1 to 64 nodes"), "{}", too_many.err);
    // A second machine, and it runs.
    let second = lab.machine("b");
    second.up(&["--join", &node.first_token()]);
    assert_eq!(node.wait_end(&job).summary.state, "finished");
}

#[test]
fn the_first_rank_that_fails_ends_all_with_its_cause_and_a_stop_stops_all() {
    let lab = Lab::new();
    let nodes = lab.three();
    let script =
        "[ $RANK = 1 ] && { while [ ! -e $1 ]; do sleep 0.05; done; exit 3; }; exec sleep 1007";
    let go = lab.path().join("go");
    let go_text = go.display().to_string();
    let job = nodes[0].submit(&["--nodes", "3", "--", "sh", "-c", script, "-", &go_text]);
    nodes[0].wait_state(&job, &["running"]);
    fs::write(&go, "").unwrap();
    let failed = nodes[0].wait_end(&job);
    let attempt = &failed.attempts[0];
    let on = &attempt.nodes[1].name;
    assert_eq!(failed.summary.state, "failed", "{failed:?}");
    assert_eq!(
        failed.summary.reason,
        format!("exit code 3 (rank 1 on {on})")
    );
    let cause = failed.cause.as_ref().unwrap();
    assert_eq!((cause.kind.as_str(), cause.exit_code), ("exit-code", 3));
    assert_eq!(cause.evidence[0], format!("rank 1 on {on}: exit code 3"));
    let kinds = attempt
        .ranks
        .iter()
        .map(|rank| rank.cause.as_ref().unwrap().kind.as_str());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["rank-ended", "exit-code", "rank-ended"]
    );

    let job = nodes[1].submit(&["--nodes", "2", "--", "sleep", "1007"]);
    nodes[1].wait_state(&job, &["running"]);
    nodes[2].muster(&["stop", &job]).success();
    let stopped = nodes[1].wait_end(&job);
    assert_eq!(stopped.summary.state, "stopped", "{stopped:?}");
    let ranks = &stopped.attempts[0].ranks;
    assert!(
        ranks
            .iter()
            .all(|rank| rank.cause.as_ref().unwrap().kind == "stopped"),
        "{ranks:?}"
    );
    let left = processes_whose(|facts| {
        facts.belongs_below(lab.path()) && facts.arguments.contains("sleep 1007")
    });
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn gangs_are_swept_and_diagnosed_by_the_rank_that_failed() {
    let lab = Lab::new();
    let [a, ..] = lab.three();
    let script =
        "echo \"metric: place=$RANK step=1\"; [ $RANK != 1 ] || exec python3 -c 'import {module}'";
    let reply: GroupReply = a.ask(&[
        "run",
        "--no-source",
        "--nodes",
        "3",
        "--sweep",
        "module=json,einopsy",
        "--",
        "sh",
        "-c",
        script,
    ]);
    for id in &reply.experiments {
        a.wait_end(id);
    }
    let group: GroupView = a.ask(&["show", &reply.id]);
    let [well, failed] = group.experiments.as_slice() else {
        panic!("{group:?}")
    };
    assert_eq!(
        (well.state.as_str(), failed.state.as_str()),
        ("finished", "failed")
    );
    // All ranks print it; the table has that of the first.
    let metrics = well.metrics.iter();
    let metrics: Vec<_> = metrics.map(|one| (one.name.as_str(), one.value)).collect();
    assert_eq!(metrics, [("place", 0.0)]);
    let detail = a.show(&failed.id);
    println!("{}", a.muster(&["show", &failed.id]).success());
    let cause = detail.cause.as_ref().expect("it ended");
    assert_eq!(cause.text, "import failed: einopsy");
    assert!(cause.evidence[0].starts_with("rank 1 on "), "{cause:?}");
    assert!(cause.advice[0].contains("packages"), "{cause:?}");
    let ranks = &detail.attempts[0].ranks;
    let own = ranks[1].cause.as_ref().expect("it ended");
    assert_eq!(
        (own.kind.as_str(), &own.advice),
        ("import-failed", &cause.advice)
    );
    let why: WhyView = a.ask(&["why", &failed.id]);
    assert_eq!(why.cause.as_ref(), Some(cause));
}

#[test]
fn the_rule_of_one_rank_ends_its_gang_which_runs_once_more_as_it_was() {
    let lab = Lab::new();
    let [a, ..] = lab.three();
    let script = "echo \"metric: loss=$RANK.5 step=1\"; [ $RANK = 0 ] || echo 'metric: loss=3 step=2'; exec sleep 1000";
    let rule = ["--nodes", "2", "--retries", "3", "--stop-when", "loss > 2"];
    let id = a.submit(&[&rule[..], &["--", "sh", "-c", script]].concat());
    let check = |id: &str| {
        let detail = a.wait_end(id);
        println!("{}", a.muster(&["show", id]).success());
        assert_eq!(detail.summary.state, "stopped", "{detail:?}");
        let reason = "stopped by its rule loss > 2 (loss = 3 at step 2) (rank 1 on ";
        let said = &detail.summary.reason;
        assert!(said.starts_with(reason), "{said}");
        let [attempt] = detail.attempts.as_slice() else {
            panic!("it is not tried again: {detail:?}")
        };
        let causes = attempt.ranks.iter().map(|rank| rank.cause.as_ref());
        let causes: Vec<_> = causes.map(|cause| cause.expect("it ended")).collect();
        let kinds: Vec<_> = causes.iter().map(|cause| cause.kind.as_str()).collect();
        assert_eq!(kinds, ["rank-ended", "rule-met"]);
    };
    check(&id);
    let said = a.muster(&["rerun", &id, "--on", "b"]).failure(1);
    assert!(said.contains("runs on 2 nodes"), "{said}");
    assert!(said.contains("leave out --on"), "{said}");
    let again: SubmitReply = a.ask(&["rerun", &id]);
    check(&again.id);
    let compared: CompareView = a.ask(&["compare", &id, &again.id]);
    for one in &compared.experiments {
        assert_eq!(one.nodes.len(), 2, "{one:?}");
        assert!(one.ran_ms.is_some(), "{one:?}");
        let metrics = one.metrics.iter();
        let metrics: Vec<_> = metrics.map(|one| (one.name.as_str(), one.value)).collect();
        assert_eq!(metrics, [("loss", 0.5)]);
    }
}
