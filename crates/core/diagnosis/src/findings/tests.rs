use types::{AttemptSample, GpuUse};

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A run of samples of five seconds.
fn run(samples: u64, sample: impl Fn(u64) -> AttemptSample) -> Course {
    let mut course = Course::default();
    for number in 0..samples {
        course.push(&AttemptSample {
            interval: DurationMs(5_000),
            ..sample(number)
        });
    }
    course
}

fn memory(samples: u64, bytes: impl Fn(u64) -> u64) -> Course {
    run(samples, |number| AttemptSample {
        memory_bytes: bytes(number),
        cpu_milli: 900,
        ..AttemptSample::default()
    })
}

fn kinds(course: &Course, request: &Request) -> Vec<CauseKind> {
    let found = findings(course, request);
    assert!(found.iter().all(|finding| !finding.advice.is_empty()));
    found.into_iter().map(|finding| finding.kind).collect()
}

fn four_gib() -> Request {
    Request {
        cpu_milli: 1_000,
        memory_bytes: 4 * GIB,
        ..Request::default()
    }
}

#[test]
fn steady_growth_towards_the_limit_is_a_leak_and_says_when_it_is_full() {
    // With noise of 20 MiB around 12 MiB of growth each 5 s.
    let course = memory(60, |number| {
        GIB + number * 12 * MIB + number * 7_919 % 20 * MIB
    });
    let found = findings(&course, &four_gib());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind, CauseKind::LeakSuspected);
    println!("{}; {}", found[0].evidence, found[0].advice);
    assert!(
        found[0].evidence.starts_with("memory grew by 14"),
        "{found:?}"
    );
    assert!(found[0].evidence.contains("full in 1"), "{found:?}");
    let gpu = run(60, |number| AttemptSample {
        gpus: Some(GpuUse {
            vram_bytes: GIB + number * 12 * MIB,
            utilisation_percent: 90,
        }),
        cpu_milli: 500,
        ..AttemptSample::default()
    });
    let request = Request {
        vram_bytes: 2 * GIB,
        gpu_milli: 1_000,
        ..four_gib()
    };
    let found = findings(&gpu, &request);
    assert!(
        found[0].evidence.starts_with("GPU memory grew"),
        "{found:?}"
    );
}

#[test]
fn memory_that_is_loaded_comes_and_goes_or_grows_slowly_is_no_leak() {
    let none = Vec::<CauseKind>::new();
    // Loaded at the start, then held.
    let loaded = memory(60, |number| (number * 100 * MIB).min(2 * GIB));
    assert_eq!(kinds(&loaded, &four_gib()), none);
    // An epoch takes a minute and gives back what it took.
    let epochs = memory(120, |number| GIB + number % 12 * 200 * MIB);
    assert_eq!(kinds(&epochs, &four_gib()), none);
    // A mebibyte each minute: not in this run.
    let slow = memory(120, |number| GIB + number * MIB / 12);
    assert_eq!(kinds(&slow, &four_gib()), none);
    // One step, as when a model is saved.
    let step = memory(120, |number| if number < 70 { GIB } else { 2 * GIB });
    assert_eq!(kinds(&step, &four_gib()), none);
    // Too short to say.
    let short = memory(6, |number| number * 400 * MIB);
    assert_eq!(kinds(&short, &four_gib()), none);
}

/// A run that uses `cpu_milli` and the GPU by `percent`.
fn gpu(samples: u64, cpu_milli: u64, percent: u32, vram_bytes: u64) -> Course {
    run(samples, |_| AttemptSample {
        cpu_milli,
        gpus: Some(GpuUse {
            vram_bytes,
            utilisation_percent: percent,
        }),
        ..AttemptSample::default()
    })
}

#[test]
fn a_gpu_that_waits_for_busy_processors_is_told_from_one_that_idles() {
    let request = Request {
        cpu_milli: 4_000,
        gpu_milli: 1_000,
        ..Request::default()
    };
    let starved = [CauseKind::DataStarved];
    let underused = [CauseKind::GpuUnderused];
    assert_eq!(kinds(&gpu(60, 3_900, 10, GIB), &request), starved);
    assert_eq!(kinds(&gpu(200, 400, 10, GIB), &request), underused);
    // It never touched it: its processors are busy with something else.
    let never = findings(&gpu(200, 3_900, 0, 0), &request);
    assert_eq!(never[0].kind, CauseKind::GpuUnderused);
    assert!(
        never[0].evidence.contains("none of its processes"),
        "{never:?}"
    );
    // Both well used; the start; and without a GPU there is nothing to use.
    assert_eq!(kinds(&gpu(200, 3_900, 85, GIB), &request), []);
    assert_eq!(kinds(&gpu(20, 3_900, 0, GIB), &request), []);
    let none = Request {
        gpu_milli: 0,
        ..request
    };
    assert_eq!(kinds(&gpu(200, 3_900, 10, GIB), &none), []);
    // A tenth of a GPU that is used by a tenth.
    let tenth = Request {
        gpu_milli: 100,
        ..request
    };
    assert_eq!(kinds(&gpu(200, 3_900, 10, GIB), &tenth), []);
}

#[test]
fn nothing_at_all_for_ten_minutes_is_a_standstill() {
    let still = |samples, bytes| {
        run(samples, |_| AttemptSample {
            console_bytes: bytes,
            ..AttemptSample::default()
        })
    };
    let request = Request::default();
    assert_eq!(kinds(&still(130, 0), &request), [CauseKind::NoProgress]);
    assert_eq!(kinds(&still(100, 0), &request), []);
    assert_eq!(kinds(&still(130, 5_000), &request), []);
    let works = run(130, |number| AttemptSample {
        cpu_milli: if number == 120 { 500 } else { 0 },
        ..AttemptSample::default()
    });
    assert_eq!(kinds(&works, &request), []);
}
