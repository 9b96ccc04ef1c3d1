//! Cuts of the network: who decides on which side, and that nothing is decided twice.

use crate::harness::{PATIENCE, wait_until};
use crate::lab::{NetLab, leader_seen_by, split_leader};
use crate::load::under_load;

#[test]
fn a_leader_cut_off_from_the_majority_is_replaced_and_nothing_is_lost() {
    let Some(lab) = NetLab::new() else { return };
    let nodes = lab.cluster(["a", "b", "c"]);
    under_load(&lab, &nodes, 1, || {
        for _ in 0..2 {
            let (leader, others) = split_leader(&nodes);
            lab.lan.cut(&[leader], &others);
            wait_until(PATIENCE, "the others elect", || {
                leader_seen_by(others[0], &others)
            });
            lab.lan.heal();
        }
    });
}
