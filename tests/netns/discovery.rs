//! Machines that find each other by multicast DNS, whatever happened to their addresses.

use service::view::TokenCreated;

use crate::harness::{PATIENCE, wait_until};
use crate::lab::{NetLab, wait_whole};

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
    for node in &nodes {
        node.kill_machine();
    }
    for (node, last_byte) in nodes.iter_mut().zip(101..) {
        lab.lan.move_host(node, last_byte);
    }
    for node in &nodes {
        node.spawn(&[]);
    }
    for node in &nodes {
        node.wait_up();
    }
    wait_whole(&nodes);
    for node in &nodes {
        let after = wait_until(PATIENCE, "it answers", || {
            let list = crate::history::everything(node)?;
            (list.len() == before.len()).then_some(list)
        });
        assert_eq!(after, before);
        assert_eq!(node.logs(&done), "kept\n");
    }
    let new = nodes[2].submit(&["--", "echo", "new"]);
    assert_eq!(nodes[0].wait_end(&new).summary.state, "finished");
}
