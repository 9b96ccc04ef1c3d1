//! Bad weather on the way between hosts: delay, jitter, loss, reordering and duplicates, over a switch in user space.

use std::time::{Duration, Instant};

use tap_switch::{Switch, Weather};

use crate::harness::{FAR, Node, PATIENCE, wait_until};
use crate::lab::{NetLab, say, seen_by, stay, wait_whole};
use crate::load::{Plan, under_load, under_load_of};

/// Elections in a minute of bad weather above which a cluster is busy with itself.
const MOST_ELECTIONS: u64 = 6;

/// Pulls the cables of all hosts out of the bridge and plugs them into a switch with weather.
fn under_the_sky(lab: &NetLab, nodes: &[Node], weather: Weather, seed: u64) -> Switch {
    let process = std::process::id();
    let names: Vec<_> = (0..nodes.len())
        .map(|host| format!("sky{process}x{seed}h{host}"))
        .collect();
    let switch = Switch::start(&names, weather, seed).expect("a switch over TAP devices");
    for (node, name) in nodes.iter().zip(&names) {
        let (address, _) = node.listen.split_once(':').expect("an address and a port");
        let namespace = lab.lan.namespace(&node.name);
        lab.lan.in_host(&node.name, "link del eth0\n");
        let namespace = namespace.file_name().expect("a name").to_string_lossy();
        let moved = std::process::Command::new("ip")
            .args(["link", "set", name, "netns", &*namespace, "name", "eth0"])
            .output()
            .expect("ip runs");
        assert!(moved.status.success(), "{moved:?}");
        let lines = format!(
            "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add 224.0.0.0/4 dev eth0\n"
        );
        lab.lan.in_host(&node.name, &lines);
    }
    switch
}

/// A cluster for machines far apart; the first makes it.
fn found_wan(nodes: &[Node]) {
    nodes[0].up(&["--new", "--timing", "wan"]);
    let token = nodes[0].first_token();
    for node in &nodes[1..] {
        node.spawn(&["--join", &token]);
    }
    for node in &nodes[1..] {
        node.wait_up();
    }
    wait_whole(nodes);
}

fn term(nodes: &[Node]) -> u64 {
    let terms = nodes.iter().map(|node| seen_by(node).term);
    terms.max().expect("a node")
}

/// Submits for so long; how long each took that was acknowledged, sorted, and how many were not: the client gives up
/// after several tries of 5 s each, with the words "try again".
fn submit_for(node: &Node, time: Duration) -> (Vec<Duration>, usize) {
    let start = Instant::now();
    let (mut took, mut unanswered) = (Vec::new(), 0);
    while start.elapsed() < time {
        let asked = Instant::now();
        let output = node.muster(&[&["run", "--no-source"][..], &FAR].concat());
        if output.code == 0 {
            took.push(asked.elapsed());
        } else {
            assert!(output.err.contains("try again"), "{output:?}");
            unanswered += 1;
        }
    }
    took.sort();
    (took, unanswered)
}

/// Asks until it is answered.
fn patiently(node: &Node, arguments: &[&str]) -> String {
    wait_until(PATIENCE, "it is answered", || {
        let output = node.muster(arguments);
        (output.code == 0).then_some(output.out)
    })
}

fn share(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn machines_200_ms_apart_that_lose_a_tenth_of_all_packets_form_a_cluster_and_work() {
    let Some(lab) = NetLab::with_weather() else {
        return;
    };
    let nodes = ["a", "b", "c"].map(|name| lab.host(name));
    let weather = Weather::far(Duration::from_millis(200), 10);
    let switch = under_the_sky(&lab, &nodes, weather, 1);
    found_wan(&nodes);
    under_load_of(&lab, &nodes, Plan::small(3), || {
        let before = (term(&nodes), Instant::now());
        let (took, unanswered) = submit_for(&nodes[1], Duration::from_secs(30));
        let name = ["--name", "away", "--constraint", "machine=b"];
        let job = [
            &["run", "--no-source"][..],
            &name,
            &["--", "echo", "far away"],
        ]
        .concat();
        patiently(&nodes[2], &job);
        wait_until(PATIENCE, "it is finished", || {
            patiently(&nodes[2], &["show", "away"])
                .contains("finished")
                .then_some(())
        });
        wait_until(PATIENCE, "its output comes", || {
            (patiently(&nodes[2], &["logs", "away"]) == "far away\n").then_some(())
        });
        let (elections, time) = (term(&nodes) - before.0, before.1.elapsed());
        say(&format!(
            "200 ms and 10 % loss, wan: {} submissions in 30 s ({unanswered} unanswered), median {:?}, p99 {:?}; {elections} elections in {} s; {:?}",
            took.len(),
            share(&took, 50),
            share(&took, 99),
            time.as_secs(),
            switch.counts(),
        ));
        assert!(switch.counts().lost > 100, "{:?}", switch.counts());
        let most = MOST_ELECTIONS * (time.as_secs() / 60 + 1);
        assert!(elections <= most, "{elections} elections in {time:?}");
        assert!(
            took.len() > 3 && unanswered * 5 <= took.len(),
            "{unanswered} of {}",
            took.len()
        );
        switch.set_weather(Weather::calm());
    });
}

#[test]
fn weather_of_all_kinds_loses_nothing_and_lets_work_go_on() {
    let Some(lab) = NetLab::with_weather() else {
        return;
    };
    let nodes = ["a", "b", "c"].map(|name| lab.host(name));
    let switch = under_the_sky(&lab, &nodes, Weather::calm(), 2);
    found_wan(&nodes);
    let near = Weather {
        delay: Duration::from_millis(25),
        jitter: Duration::from_millis(10),
        ..Weather::calm()
    };
    let lossy = |percent: u32| Weather {
        loss_ppm: percent * 10_000,
        ..near
    };
    let storms = [
        ("25±10 ms", near),
        (
            "and a fifth out of order",
            Weather {
                reorder_ppm: 200_000,
                ..near
            },
        ),
        (
            "and a fifth twice",
            Weather {
                duplicate_ppm: 200_000,
                ..near
            },
        ),
        ("and 5 % lost", lossy(5)),
        ("and 20 % lost", lossy(20)),
        ("and 50 % lost", lossy(50)),
    ];
    under_load(&lab, &nodes, 2, || {
        for (name, weather) in storms {
            let (before, start) = (term(&nodes), Instant::now());
            switch.set_weather(weather);
            stay(Duration::from_secs(5));
            say(&format!(
                "weather {name}: {} elections in {} s",
                term(&nodes) - before,
                start.elapsed().as_secs()
            ));
        }
        switch.set_weather(Weather::calm());
    });
    let counts = switch.counts();
    assert!(
        counts.lost > 0 && counts.doubled > 0 && counts.reordered > 0,
        "{counts:?}"
    );
    let (took, unanswered) = submit_for(&nodes[1], Duration::from_secs(3));
    assert_eq!(unanswered, 0);
    say(&format!(
        "calm again: median {:?}, p99 {:?}",
        share(&took, 50),
        share(&took, 99)
    ));
}
