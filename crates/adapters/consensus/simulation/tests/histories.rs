//! The harness on fixed seeds: sound without a planted bug, the same history for the same seed, and each planted bug is
//! caught.

use std::process::Command;

use raft_simulation::{Plant, Point, Report, Setup, Verdict, run};

/// Planted bugs must show within so many seeds.
const SEEDS: u64 = 60;

#[track_caller]
fn caught(plant: Plant, signs: &[&str]) {
    let found = (1..=SEEDS).find_map(|seed| match run(seed, &Setup::with(plant)).verdict {
        Verdict::Wrong(what) => Some(what),
        Verdict::Sound | Verdict::Stuck(_) => None,
    });
    let what = found.expect("the planted bug shows");
    let expected = signs.iter().any(|sign| what.contains(sign));
    assert!(expected, "caught for another reason: {what}");
}

fn sound(seed: u64) -> Report {
    let report = run(seed, &Setup::with(Plant::Nothing));
    assert_eq!(report.verdict, Verdict::Sound, "seed {seed}");
    report
}

#[test]
fn fixed_seeds_are_sound() {
    let reports: Vec<_> = (1..=8).map(sound).collect();
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    // A harness in which nothing happens finds nothing.
    assert!(sum(|report| report.counts.faults) > 80);
    assert!(sum(|report| report.counts.crashes_inside) > 0);
    assert!(sum(|report| report.counts.writes + report.counts.reads) > 400);
    assert!(sum(|report| report.counts.retries) > 50);
    assert!(sum(|report| report.counts.late_messages) > 100);
    assert!(sum(|report| report.counts.membership_changes) > 8);
    assert!(sum(|report| report.counts.snapshots_built) > 8);
    assert!(sum(|report| report.counts.snapshots_installed) > 0);
    assert!(sum(|report| report.counts.given_up) > 0);
    assert!(sum(|report| report.bereft as u64) > 0);
    assert!(sum(|report| report.terms) > 20);
}

/// Before and after each durable step, again and again.
#[test]
fn a_crash_at_each_durable_step_is_survived() {
    for point in Point::ALL {
        let setup = Setup {
            crash_at: Some(point),
            ..Setup::with(Plant::Nothing)
        };
        let mut crashed = 0;
        for seed in 31..31 + SEEDS {
            let report = run(seed, &setup);
            assert_eq!(report.verdict, Verdict::Sound, "{point:?}, seed {seed}");
            crashed += u32::from(report.crashed_at.contains(&point));
            if crashed == 3 {
                break;
            }
        }
        assert_eq!(crashed, 3, "histories with a crash at {point:?}");
    }
}

#[test]
fn a_seed_is_one_history_in_one_process() {
    let first = sound(11);
    assert_eq!(sound(11), first);
    assert_ne!(sound(12).trace, first.trace);
}

#[test]
fn a_seed_is_one_history_in_two_processes() {
    let play = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_raft-simulation"));
        program.args(["--seeds", "2", "--seed", "21", "--verbose"]);
        let done = program.output().expect("the program runs");
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8(done.stdout).expect("it prints text");
        let lines = text.lines().filter(|line| line.contains("trace "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = play();
    assert_eq!(first.len(), 2, "{first:?}");
    assert_eq!(play(), first);
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_caught() {
    caught(Plant::LyingDisk, &["invariant 1"]);
}

#[test]
fn a_voter_that_forgets_its_vote_is_caught() {
    caught(
        Plant::ForgottenVote,
        &["election safety", "goes back to term"],
    );
}

#[test]
fn reads_that_ask_no_majority_are_caught() {
    caught(Plant::LocalReads, &["invariant 5"]);
}

#[test]
fn a_new_leader_that_holds_no_leases_is_caught() {
    caught(Plant::NoHold, &["invariant 10", "invariant 11"]);
}

#[test]
fn an_entry_that_is_applied_twice_after_a_restart_is_caught() {
    caught(Plant::DoubleApply, &["invariant 2"]);
}

#[test]
fn a_client_that_forgets_its_request_id_is_caught() {
    caught(Plant::ForgetfulClient, &["invariant 4"]);
}

#[test]
fn a_store_that_is_gone_and_replaced_by_an_empty_one_is_caught() {
    caught(Plant::WipedStore, &["invariant 3"]);
}
