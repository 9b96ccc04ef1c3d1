//! Machines that find each other by multicast DNS, whatever happened to their addresses.

use std::time::Duration;

use service::view::TokenCreated;

use crate::harness::{Node, PATIENCE, read_lossy, wait_until};
use crate::lab::{NetLab, stay, wait_whole};
use crate::load::{Plan, under_load_of};
use crate::outages::{kill_all, start_all};

/// Time for two machines to hear each other by multicast DNS, and to do something about it if they were wrong.
const MEETING: Duration = Duration::from_secs(5);

#[test]
fn a_machine_without_a_token_is_told_which_cluster_it_hears_and_how_to_join() {
    let Some(lab) = NetLab::new() else { return };
    let first = lab.host("a");
    first.up(&["--new"]);
    let second = lab.host("b");
    let said = second.up_in_vain(&[]);
    let text = format!("{}{}", said.out, said.err);
    assert_ne!(said.code, 0, "{text}");
    for words in ["--join", "--new", "muster token new"] {
        assert!(text.contains(words), "{words:?} is missing in {text}");
    }
    second.up(&["--join", &first.first_token()]);
    wait_whole(&[first, second]);
}

#[test]
fn a_token_with_old_addresses_joins_by_multicast_dns() {
    let Some(lab) = NetLab::new() else { return };
    let mut first = lab.host("a");
    first.up(&["--new"]);
    let token: TokenCreated = first.ask(&["token", "new"]);
    first.terminate();
    lab.lan.move_host(&mut first, 101);
    first.up(&[]);
    let second = lab.host("b");
    second.up(&["--join", &token.token]);
    wait_whole(&[first, second]);
}

#[test]
fn all_machines_return_with_other_addresses_and_are_the_same_cluster() {
    let Some(lab) = NetLab::new() else { return };
    let mut nodes = lab.cluster(["a", "b", "c"]);
    let done = nodes[1].submit(&["--name", "done", "--", "echo", "kept"]);
    nodes[1].wait_end(&done);
    let before = nodes[0].list();
    let doors = ["a", "b", "c"].map(|name| lab.door(name));
    under_load_of(&lab, &doors, Plan::small(41), || {
        kill_all(&nodes);
        for (node, last_byte) in nodes.iter_mut().zip(101..) {
            lab.lan.move_host(node, last_byte);
        }
        start_all(&nodes);
        wait_whole(&nodes);
        for node in &nodes {
            let after = wait_until(PATIENCE, "it answers", || crate::history::everything(node));
            let kept = after.into_iter().filter(|one| one.id == done);
            assert_eq!(kept.collect::<Vec<_>>(), before);
            assert_eq!(node.logs(&done), "kept\n");
        }
    });
    let new = nodes[2].submit(&["--", "echo", "new"]);
    assert_eq!(nodes[0].wait_end(&new).summary.state, "finished");
}

#[test]
fn two_machines_that_founded_clusters_apart_are_not_merged_when_they_meet() {
    let Some(lab) = NetLab::new() else { return };
    let (first, second) = (lab.host("a"), lab.host("b"));
    lab.lan.cut(&[&first], &[&second]);
    // Each listens for the other and hears nothing.
    first.spawn(&[]);
    second.spawn(&[]);
    first.wait_up();
    second.wait_up();
    lab.lan.heal();
    let ran = second.submit(&["--", "true"]);
    second.wait_end(&ran);
    stay(MEETING);
    let [one, other] = [&first, &second].map(|node| node.cluster());
    assert_ne!(one.cluster, other.cluster);
    assert_eq!((one.members, other.members), (1, 1));
    assert!(first.list().is_empty());
    // Nor by a token: its own history would be lost.
    let token = first.first_token();
    second.terminate();
    let said = second.up_in_vain(&["--join", &token]).failure(1);
    for words in ["belongs to cluster", "--data-dir"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    second.up(&[]);
    assert_eq!(second.cluster().cluster, other.cluster);
    assert_eq!(second.list()[0].id, ran);
}

/// Packets to all that a host has sent (`OutMcastPkts` of `IpExt` in `/proc/net/netstat`): of IPv4 nothing else sends any.
fn multicasts_of(node: &Node) -> u64 {
    let path = format!("/proc/{}/net/netstat", node.process_id());
    let text = read_lossy(path.as_ref());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "OutMcastPkts");
    let value = values.split(' ').nth(at.unwrap()).unwrap();
    value.parse().unwrap()
}

/// Each question is answered by all to all: a cluster whose nodes go on asking sends more the more they are, each to each.
#[test]
fn machines_that_are_linked_ask_no_more_by_multicast_dns_and_still_answer() {
    /// Until a node that has a link is silent, and what it asked last has been answered.
    const SILENT: Duration = Duration::from_secs(90);
    /// One without a link asks in it for certain.
    const LISTENED: Duration = Duration::from_secs(65);
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    stay(SILENT);
    let before: Vec<_> = nodes.iter().map(multicasts_of).collect();
    assert!(before.iter().all(|count| *count > 0), "{before:?}");
    stay(LISTENED);
    let after: Vec<_> = nodes.iter().map(multicasts_of).collect();
    assert_eq!(after, before);
    // Who comes now is heard.
    let fourth = lab.host("d");
    let said = fourth.up_in_vain(&[]);
    let text = format!("{}{}", said.out, said.err);
    assert!(text.contains("--join"), "{text}");
}
