//! The harness on fixed seeds: sound without a planted bug, and each planted bug is caught.

use simulations::{Outcome, Plant, run};

/// Planted bugs must show within so many seeds.
const SEEDS: u64 = 40;

#[track_caller]
fn caught(plant: Plant, sign: &str) {
    caught_by_one_of(plant, &[sign]);
}

fn caught_by_one_of(plant: Plant, signs: &[&str]) {
    let found = (1..=SEEDS).find_map(|seed| match run(seed, plant).outcome {
        Outcome::Wrong(what) => Some(what),
        Outcome::Sound | Outcome::Stuck(_) => None,
    });
    let what = found.expect("the planted bug shows");
    let expected = signs.iter().any(|sign| what.contains(sign));
    assert!(expected, "caught for another reason: {what}");
}

#[test]
fn fixed_seeds_are_sound() {
    for seed in 1..=10 {
        assert_eq!(
            run(seed, Plant::Nothing).outcome,
            Outcome::Sound,
            "seed {seed}"
        );
    }
}

#[test]
fn a_seed_is_one_history() {
    assert_eq!(run(7, Plant::Nothing), run(7, Plant::Nothing));
    assert_ne!(
        run(7, Plant::Nothing).state_hash,
        run(8, Plant::Nothing).state_hash
    );
}

#[test]
fn a_new_leader_that_holds_no_leases_is_caught() {
    caught(Plant::NoHold, "starts on");
}

#[test]
fn a_deposed_leader_that_grants_is_caught() {
    caught(Plant::UnconfirmedGrant, "starts on");
}

#[test]
fn a_node_that_counts_from_the_answer_is_caught() {
    // Seen from either side: another start beside it, or a leader for whom the lease was over already.
    caught_by_one_of(
        Plant::CountFromAnswer,
        &["starts on", "is current and is stopped as stale"],
    );
}

#[test]
fn a_holder_that_ignores_its_deadline_is_caught() {
    caught(Plant::DeafHolder, "starts on");
}

#[test]
fn a_voter_that_calls_an_old_state_new_is_caught() {
    caught(Plant::WrongIndex, "is current and is stopped as stale");
}
