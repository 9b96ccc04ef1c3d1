//! What every machine does now, seen from any of them.

use service::view::{MachineView, MachinesView};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

fn look(node: &Node, arguments: &[&str]) -> Vec<MachineView> {
    let arguments = [&["top"], arguments].concat();
    node.ask::<MachinesView>(&arguments).machines
}

#[test]
fn every_machine_tells_what_it_does_and_a_dead_one_says_nothing() {
    let lab = Lab::new();
    let nodes = lab.three();
    for node in &nodes {
        let machines = wait_until(PATIENCE, "every machine answers", || {
            let machines = look(node, &[]);
            let answers = machines.iter().filter(|machine| machine.sample.is_some());
            (answers.count() == 3).then_some(machines)
        });
        let names: Vec<_> = machines
            .iter()
            .map(|machine| machine.node.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        for machine in machines {
            let host = machine.sample.expect("it answered").host;
            assert!(host.memory_used_bytes > 0, "{host:?}");
            assert!(!host.cpus_busy_milli.is_empty(), "{host:?}");
        }
    }
    let [a, b, c] = &nodes;
    // What runs on a machine is seen with it, and its work in its figures.
    let busy = b.submit(&[
        "--constraint",
        "machine=b",
        "--",
        "sh",
        "-c",
        "while :; do :; done",
    ]);
    a.wait_state(&busy, &["running"]);
    wait_until(PATIENCE, "b is seen to be busy", || {
        let machines = look(c, &["b"]);
        assert_eq!(machines.len(), 1);
        let busy: u32 = machines[0]
            .sample
            .as_ref()?
            .host
            .cpus_busy_milli
            .iter()
            .sum();
        (busy >= 700 && machines[0].node.attempts.len() == 1).then_some(())
    });
    let text = c.muster(&["top", "b"]).success();
    assert!(
        text.contains("MACHINE") && text.contains("CPUS BUSY"),
        "{text}"
    );
    assert!(text.contains(&format!("{busy}#1")), "{text}");
    a.muster(&["stop", &busy]).success();

    let refused = a.muster(&["top", "nobody"]).failure(1);
    assert!(refused.contains("no node is called nobody"), "{refused}");
    assert!(refused.contains("muster nodes"), "{refused}");

    c.kill();
    wait_until(PATIENCE, "the dead one is listed as silent", || {
        let machines = look(a, &[]);
        let dead = machines
            .iter()
            .find(|machine| machine.node.name == "c")
            .unwrap();
        assert!(
            machines.iter().filter(|one| one.sample.is_some()).count() >= 2,
            "{machines:?}"
        );
        (dead.sample.is_none() && dead.silent.is_some()).then_some(())
    });
    let text = a.muster(&["top"]).success();
    assert!(text.contains("does not answer"), "{text}");
}
