//! A worker behind a router that translates addresses: it can call out, and nobody can call it.

use std::process::Command;
use std::time::{Duration, Instant};

use service::view::{MachinesView, NodesView};

use crate::harness::{Node, PATIENCE, counted, counting, run, wait_lines, wait_until};
use crate::home::never_votes;
use crate::lab::{NetLab, say, wait_whole};
use crate::load::{Plan, under_load_of};

/// Longest time until a link that nobody uses is closed: a minute, and the look for it.
const UNUSED: Duration = Duration::from_secs(75);
/// Longest time from a submission to the first line of output on another machine.
const FIRST_LINE: Duration = Duration::from_secs(20);

fn in_namespace(lab: &NetLab, host: &str, line: &str) {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", lab.lan.namespace(host).display()))
        .args(["sh", "-c", line]);
    run(&mut command, line).success();
}

/// Whether a node is linked with another one, by what it has logged.
fn is_linked(node: &Node, to: &str) -> bool {
    let log = node.log();
    let count = |what: &str| {
        let line = format!("{what} node_id={to}");
        log.lines().filter(|seen| seen.ends_with(&line)).count()
    };
    count("peer connected") > count("peer disconnected")
}

/// A host whose only cable goes to a router, which gives it its own address on the network of the others.
fn host_behind_router(lab: &NetLab, name: &str) -> Node {
    lab.lan.add_host("router");
    let mut node = lab.host(name);
    let namespace = lab.lan.namespace(name);
    let inside = namespace.file_name().expect("a name").to_string_lossy();
    lab.lan.in_host(name, "link del eth0\n");
    lab.lan.in_host(
        "router",
        &format!(
            "link add eth1 type veth peer name eth0 netns {inside}\naddr add 10.99.0.1/24 dev eth1\nlink set eth1 up\n"
        ),
    );
    lab.lan.in_host(
        name,
        "addr add 10.99.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.99.0.1\n",
    );
    in_namespace(lab, "router", "echo 1 > /proc/sys/net/ipv4/ip_forward");
    in_namespace(
        lab,
        "router",
        "nft 'add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }; add rule ip nat out oifname \"eth0\" masquerade'",
    );
    node.listen = "10.99.0.2:7718".to_owned();
    node
}

#[test]
fn a_worker_behind_a_router_runs_is_read_and_is_stopped_over_its_own_connections() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let worker = host_behind_router(&lab, "w");
    worker.up(&["--join", &nodes[0].first_token()]);
    let [a, b, c] = nodes;
    let all = [a, b, c, worker];
    wait_whole(&all);
    let [a, b, c, worker] = &all;

    let stop = lab.shared().join("stop");
    let counting = counting(&stop);
    let job = ["--constraint", "machine=w", "--", "sh", "-c", &counting];
    let asked = Instant::now();
    let first = a.submit(&job);
    b.wait_state(&first, &["running"]);
    let running = asked.elapsed();
    for node in [a, b, c] {
        wait_lines(node, &first, 3);
    }
    let read = asked.elapsed();
    say(&format!(
        "behind a router: running after {running:?}, read from three machines after {read:?}"
    ));
    assert!(read < FIRST_LINE, "{read:?}");
    // What is measured is measured; now others work too.
    under_load_of(&lab, &all, Plan::small(71), || {
        let before = wait_lines(c, &first, 3);
        wait_lines(c, &first, before + 20);
        b.muster(&["stop", &first]).success();
        let ended = c.wait_end(&first);
        assert_eq!(ended.summary.state, "stopped", "{ended:?}");

        // The node comes back behind the same router within the lease, with what it ran.
        let second = a.submit(&[&["--lease", "60s"], &job[..]].concat());
        wait_lines(b, &second, 3);
        worker.kill();
        worker.up(&[]);
        let lines = wait_lines(b, &second, 10);
        std::fs::write(&stop, "").unwrap();
        let ended = b.wait_end(&second);
        assert_eq!(
            (ended.summary.state.as_str(), ended.attempts.len()),
            ("finished", 1),
            "{ended:?}"
        );
        let output = wait_until(PATIENCE, "the whole output is read", || {
            let output = a.muster(&["logs", &second]).out;
            output.ends_with("end\n").then_some(output)
        });
        assert!(counted(&output).1 >= lines);
    });
}

#[test]
fn workers_have_no_link_at_rest_and_one_behind_a_router_dials_back_for_a_call() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    let (open, hidden) = (lab.host("v"), host_behind_router(&lab, "w"));
    for worker in [&open, &hidden] {
        never_votes(worker);
        worker.up(&["--join", &nodes[0].first_token()]);
    }
    let [a, b, c] = nodes;
    let all = [a, b, c, open, hidden];
    wait_whole(&all);
    let [a, b, c, open, hidden] = &all;
    let view: NodesView = a.ask(&["nodes"]);
    let id = |named: &Node| {
        let mut nodes = view.nodes.iter();
        let node = nodes.find(|node| node.name == named.name);
        node.expect("it is in").id.clone()
    };
    for worker in [open, hidden] {
        for replica in [a, b, c] {
            wait_until(PATIENCE, "a worker is linked with every replica", || {
                is_linked(worker, &id(replica)).then_some(())
            });
        }
    }
    assert!(!is_linked(hidden, &id(open)), "no link at rest");

    // Nobody can dial it: a replica tells it to dial.
    let top: MachinesView = open.ask(&["top", "--once", &hidden.name]);
    let [machine] = top.machines.as_slice() else {
        panic!("{top:?}")
    };
    assert!(machine.sample.is_some(), "{:?}", machine.silent);
    wait_until(PATIENCE, "it has dialled", || {
        is_linked(hidden, &id(open)).then_some(())
    });
    let called = Instant::now();
    wait_until(UNUSED, "the link is closed for want of use", || {
        (!is_linked(hidden, &id(open))).then_some(())
    });
    say(&format!(
        "a link between workers was closed {:?} after its call",
        called.elapsed()
    ));
    for worker in [open, hidden] {
        for replica in [a, b, c] {
            assert!(is_linked(worker, &id(replica)), "{}", worker.name);
        }
    }
}
