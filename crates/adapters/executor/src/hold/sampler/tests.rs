use types::{DiskUse, DurationMs, NetworkUse};

use super::*;
use crate::process_use::Transferred;

const MIB: u64 = 1 << 20;

fn looked(cpu_ms: u64, memory_bytes: u64) -> Look {
    Look {
        cpu_ms,
        memory_bytes,
        processes: 2,
        threads: 5,
        ..Look::default()
    }
}

fn due(sampler: &mut Sampler, now_ms: u64) -> Option<AttemptSample> {
    match sampler.record(now_ms)? {
        RecordBody::Sample(sample) => Some(sample),
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_are_each_5_s_at_first_then_15_s_then_60_s() {
    let mut sampler = Sampler::new(1_000);
    let mut at = Vec::new();
    // Looks come a little late each time.
    for second in 0..10_000 {
        if due(&mut sampler, 1_000 + second * 1_003).is_some() {
            at.push(second * 1_003 / 1_000);
        }
    }
    let between = |from: u64, to: u64| at.iter().filter(|at| (from..to).contains(at)).count();
    assert_eq!(between(0, 600), 119);
    assert_eq!(between(600, 7_200), 440);
    assert_eq!(between(7_200, 10_021), 48);
}

#[test]
fn a_peak_between_two_records_is_kept_and_rates_are_means() {
    let mut sampler = Sampler::new(0);
    for (now_ms, cpu_ms, memory) in [(0, 0, 1), (1_000, 2_000, 9), (5_000, 5_000, 2)] {
        sampler.take(looked(cpu_ms, memory * MIB), now_ms);
    }
    let first = due(&mut sampler, 5_000).unwrap();
    assert_eq!(first.interval, DurationMs(5_000));
    assert_eq!(first.cpu_milli, 1_000);
    assert_eq!((first.processes, first.threads), (2, 5));
    assert_eq!(first.memory_bytes, 9 * MIB);
    sampler.take(looked(5_000, 3 * MIB), 10_000);
    let second = due(&mut sampler, 10_000).unwrap();
    assert_eq!(second.cpu_milli, 0);
    assert_eq!(second.memory_bytes, 3 * MIB);
    assert_eq!(second.peak_memory_bytes, 9 * MIB);
}

#[test]
fn disk_bytes_of_a_process_that_took_its_counters_with_it_are_not_counted_twice() {
    let mut sampler = Sampler::new(0);
    let with_disk = |written| Look {
        disk: Some(Transferred {
            inward: 0,
            outward: written,
        }),
        ..Look::default()
    };
    for (now_ms, written) in [(0, 0), (1_000, 4_000), (2_000, 1_000), (5_000, 6_000)] {
        sampler.take(with_disk(written), now_ms);
    }
    let expected = DiskUse {
        read_bytes_per_second: 0,
        written_bytes_per_second: 1_200,
    };
    assert_eq!(due(&mut sampler, 5_000).unwrap().disk, Some(expected));
}

#[test]
fn gpu_figures_count_for_10_s_and_their_peak_is_kept() {
    let mut sampler = Sampler::new(0);
    let told = |vram_bytes, utilisation_percent| GpuUse {
        vram_bytes,
        utilisation_percent,
    };
    sampler.take(looked(0, 0), 0);
    sampler.tell_gpus(told(8 * MIB, 100), 100);
    sampler.tell_gpus(told(2 * MIB, 100), 200);
    sampler.take(looked(0, 0), 1_000);
    sampler.tell_gpus(told(MIB, 200), 1_000);
    sampler.take(looked(0, 0), 5_000);
    let sample = due(&mut sampler, 5_000).unwrap();
    // 100 % for 1 s, 200 % for 4 s.
    assert_eq!(sample.gpus, Some(told(8 * MIB, 180)));
    assert_eq!(sampler.peak_vram_bytes, 8 * MIB);
    sampler.take(looked(0, 0), 11_000);
    assert_eq!(due(&mut sampler, 11_000).unwrap().gpus, None);
}

#[test]
fn network_bytes_are_of_one_owner_and_start_anew_with_another() {
    let mut sampler = Sampler::new(0);
    let with_network = |own: Option<&str>, received| Look {
        network: Some(NetworkCounters {
            own_namespaces: own.map(|name| [name.to_owned()].into()),
            bytes: Transferred {
                inward: received,
                outward: 0,
            },
        }),
        ..Look::default()
    };
    sampler.take(with_network(None, 1_000_000), 0);
    sampler.take(with_network(None, 1_900_000), 1_000);
    sampler.take(with_network(Some("net:[2]"), 7), 2_000);
    sampler.take(with_network(Some("net:[2]"), 5_007), 5_000);
    let expected = NetworkUse {
        received_bytes_per_second: 1_000,
        sent_bytes_per_second: 0,
        of: NetworkOf::Attempt,
    };
    assert_eq!(due(&mut sampler, 5_000).unwrap().network, Some(expected));
}

#[test]
fn a_tree_that_is_gone_leaves_a_last_record_of_what_was_held_before() {
    let cgroups = JobCgroups::default();
    let mut sampler = Sampler::new(0);
    sampler.take(looked(0, MIB), 5_000);
    assert!(due(&mut sampler, 5_000).is_some());
    let RecordBody::Sample(last) = sampler.finish(&cgroups, 5_100) else {
        panic!("no sample");
    };
    assert_eq!(last.interval, DurationMs(100));
    assert_eq!((last.memory_bytes, last.processes), (MIB, 2));
}

/// Prints what a look costs, for a job of 1 and of 20 processes: `cargo test --release -p executor look_costs -- --nocapture`.
#[test]
fn a_look_costs_a_small_part_of_its_second() {
    for count in [1, 20] {
        let mut children: Vec<_> = (0..count)
            .map(|_number| {
                let mut sleep = std::process::Command::new("sleep");
                sleep.arg("60").spawn().unwrap()
            })
            .collect();
        let pids: Vec<u32> = children.iter().map(std::process::Child::id).collect();
        let rounds = 20;
        let started = std::time::Instant::now();
        for _round in 0..rounds {
            look::look_at(&pids, &JobCgroups::default());
        }
        let known = started.elapsed() / rounds;
        let started = std::time::Instant::now();
        for _round in 0..rounds {
            look::look(&JobCgroups::default()).unwrap();
        }
        let walked = started.elapsed() / rounds;
        println!("{count} processes: {known:?} where cgroups know them, {walked:?} with a walk");
        assert!(known.as_millis() < 100, "{known:?}");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
