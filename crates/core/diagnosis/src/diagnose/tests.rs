//! Outputs as programs really print them, with what they ended of, and such as only look like it.

mod words;

use proptest::prelude::*;
use types::{AttemptSample, ConsoleStream};

use super::*;
use crate::{Disk, LossWatch, Memory, Request, Said};

/// A run that ended so and said this on standard error; changed by whoever needs more.
fn facts<'a>(
    exit: Exit,
    console: &'a [Said],
    course: &'a Course,
    losses: &'a LossWatch,
) -> Facts<'a> {
    Facts {
        command: &[],
        exit,
        ran: DurationMs(90_000),
        launch: None,
        failure: None,
        stop: None,
        memory: Memory::default(),
        refused_forks: None,
        max_processes: 100,
        disk: Some(Disk {
            free_bytes: 4_096,
            free_files: Some(10),
        }),
        console,
        course,
        losses,
        request: Request::default(),
    }
}

fn said(stream: ConsoleStream, before_end_ms: u64, text: &str) -> Said {
    Said {
        stream,
        before_end: DurationMs(before_end_ms),
        bytes: text.as_bytes().to_vec(),
    }
}

fn of(exit: Exit, console: &[Said]) -> Cause {
    diagnose(&facts(
        exit,
        console,
        &Course::default(),
        &LossWatch::default(),
    ))
}

fn of_stderr(code: i32, text: &str) -> Cause {
    of(Exit::Code(code), &[said(ConsoleStream::Stderr, 40, text)])
}

const OOM: &str = r#"Traceback (most recent call last):
  File "/home/ann/train.py", line 88, in <module>
    main()
  File "/home/ann/train.py", line 71, in main
    loss = model(batch).mean()
           ^^^^^^^^^^^^
  File "/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1553, in _wrapped_call_impl
    return self._call_impl(*args, **kwargs)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.21 GiB is free. Process 4711 has 40.00 GiB memory in use. Including non-PyTorch memory, this process has 37.94 GiB memory in use. Of the allocated memory 36.10 GiB is allocated by PyTorch, and 1.02 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.
"#;

/// One exception of one frame.
fn raised(message: &str) -> String {
    format!(
        "Traceback (most recent call last):\n  File \"/home/ann/a.py\", line 3, in <module>\n    go()\n{message}\n"
    )
}

#[test]
fn what_the_kernel_counted_comes_first_and_shows_the_curve() {
    let mut course = Course::default();
    for number in 1..=16_u64 {
        course.push(&AttemptSample {
            interval: DurationMs(5_000),
            memory_bytes: number << 26,
            ..AttemptSample::default()
        });
    }
    let losses = LossWatch::default();
    let console = [said(
        ConsoleStream::Stderr,
        4,
        "RuntimeError: DataLoader worker (pid 9) is killed by signal: Killed.\n",
    )];
    let mut seen = facts(Exit::Code(1), &console, &course, &losses);
    seen.memory = Memory {
        kills: Some(1),
        limit_bytes: 1 << 30,
        peak_bytes: 1 << 30,
        ..Memory::default()
    };
    seen.request.memory_bytes = 1 << 30;
    let cause = diagnose(&seen);
    assert_eq!(cause.kind, CauseKind::HostOutOfMemory);
    println!("{cause:#?}");
    assert!(
        cause.evidence[1].contains("limit 1 GiB, most held 1 GiB"),
        "{cause:?}"
    );
    assert_eq!(
        cause.evidence[2],
        "memory over 1 min 20 s: 128 MiB, 256 MiB, 384 MiB, 512 MiB, 640 MiB, 768 MiB, 896 MiB, 1 GiB"
    );
    assert_eq!(cause.findings[0].kind, CauseKind::LeakSuspected);
    // The limit was far: the machine had no more.
    seen.memory.peak_bytes = 1 << 28;
    let cause = diagnose(&seen);
    assert_eq!(cause.kind, CauseKind::HostOutOfMemory);
    assert!(
        cause.evidence[1].starts_with("the machine ran out of memory"),
        "{cause:?}"
    );
    // Kills elsewhere on the machine are its cause only if it was killed.
    seen.memory = Memory {
        machine_kills: Some(2),
        ..Memory::default()
    };
    assert_eq!(diagnose(&seen).kind, CauseKind::ExitCode(1));
    seen.exit = Exit::Signal(9);
    assert_eq!(diagnose(&seen).kind, CauseKind::HostOutOfMemory);
    // Its own control group counted none: a person killed it, whatever happened to others.
    seen.memory.kills = Some(0);
    assert_eq!(diagnose(&seen).kind, CauseKind::Signal(9));
    seen.memory = Memory::default();
    assert_eq!(diagnose(&seen).kind, CauseKind::Signal(9));
}

#[test]
fn a_loss_that_is_nan_is_why_only_if_nothing_else_is() {
    let mut losses = LossWatch::default();
    losses.see("train_loss", 120, f64::NAN);
    let course = Course::default();
    let mut seen = facts(Exit::Code(3), &[], &course, &losses);
    let cause = diagnose(&seen);
    assert_eq!((&cause.kind, cause.exit_code()), (&CauseKind::NanLoss, 3));
    assert_eq!(cause.evidence[1], "metric train_loss is NaN since step 120");
    let other = [said(ConsoleStream::Stderr, 4, &raised("KeyError: 'x'"))];
    seen.console = &other;
    seen.exit = Exit::Code(1);
    let cause = diagnose(&seen);
    assert_eq!(
        (cause.kind, cause.findings[0].kind.clone()),
        (CauseKind::ExitCode(1), CauseKind::NanLoss)
    );
    seen.exit = Exit::Code(0);
    let cause = diagnose(&seen);
    assert_eq!(
        (cause.kind, cause.findings[0].kind.clone()),
        (CauseKind::Finished, CauseKind::NanLoss)
    );
    let stop = CauseKind::Stopped {
        by: "ann@a".to_owned(),
    };
    seen.stop = Some((&stop, "stop asked for by ann@a"));
    let cause = diagnose(&seen);
    assert_eq!(
        cause.kind,
        CauseKind::Stopped {
            by: "ann@a".to_owned()
        }
    );
    assert_eq!(cause.findings.len(), 1);
    let printed = [said(
        ConsoleStream::Stdout,
        4,
        "step 9 loss: 2.1\nstep 10 loss: nan\nLoss is nan, stopping training\n",
    )];
    assert_eq!(of(Exit::Code(1), &printed).kind, CauseKind::NanLoss);
}

#[test]
fn what_never_started_says_why() {
    let course = Course::default();
    let losses = LossWatch::default();
    let command = ["./run.sh".to_owned()];
    let mut seen = facts(Exit::Code(1), &[], &course, &losses);
    seen.command = &command;
    let missing = LaunchFailure::Command("No such file or directory (os error 2)".to_owned());
    let denied = LaunchFailure::NotAllowed("Permission denied (os error 13)".to_owned());
    seen.launch = Some(&missing);
    let cause = diagnose(&seen);
    assert_eq!(cause.to_string(), "command not found: ./run.sh");
    assert!(cause.evidence[0].contains("No such file"), "{cause:?}");
    seen.launch = Some(&denied);
    let cause = diagnose(&seen);
    assert_eq!(cause.to_string(), "permission denied: ./run.sh");
    assert!(cause.advice[0].contains("chmod +x"), "{cause:?}");
}

/// Pieces of what programs print, broken in any way.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        Just(OOM.as_bytes().to_vec()),
        Just(b"Traceback (most recent call last):\n".to_vec()),
        Just(b"  File \"x\", line 1, in f\n".to_vec()),
        Just(b"ImportError: cannot import name \n".to_vec()),
        Just(b"\x1b]0;evil\x07\x1b[31m\r\n".to_vec()),
        Just("‘\u{202e}’: not found\n".as_bytes().to_vec()),
        Just(vec![b'x'; 70_000]),
        Just(b"Process  has \nTried to allocate GiB is free\nloss is\n".to_vec()),
    ];
    proptest::collection::vec(parts, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn hostile_output_never_panics_and_evidence_is_clean_and_short(
        err in hostile(), out in hostile(), code in any::<i32>(), before_end in any::<u64>(), is_signal in any::<bool>()
    ) {
        let piece = |stream, bytes| Said { stream, before_end: DurationMs(before_end), bytes };
        let console = [piece(ConsoleStream::Stderr, err), piece(ConsoleStream::Stdout, out)];
        let exit = if is_signal { Exit::Signal(code) } else { Exit::Code(code) };
        let cause = of(exit, &console);
        prop_assert!(!cause.evidence.is_empty() && cause.evidence.len() <= Cause::MAX_EVIDENCE_LINES);
        let found = cause.findings.iter().flat_map(|finding| [&finding.evidence, &finding.advice]);
        for line in cause.evidence.iter().chain(&cause.advice).chain(found) {
            prop_assert!(line.len() <= Cause::MAX_EVIDENCE_LINE_BYTES);
            prop_assert!(!line.chars().any(|letter| letter.is_control() || letter == '\u{202e}'), "{:?}", line);
        }
        prop_assert!(cause.to_string().len() < 400);
        prop_assert!(!cause.to_string().chars().any(char::is_control));
        prop_assert_eq!(cause.exit_code() == 0, cause.is_success());
    }

    #[test]
    fn any_samples_give_findings_without_panic(samples in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..300)) {
        let mut course = Course::default();
        for (interval, cpu_milli, memory_bytes) in samples {
            course.push(&AttemptSample {
                interval: DurationMs(interval),
                cpu_milli,
                memory_bytes,
                console_bytes: memory_bytes,
                gpus: Some(types::GpuUse { vram_bytes: interval, utilisation_percent: 1 }),
                ..AttemptSample::default()
            });
        }
        let request = Request { cpu_milli: u64::MAX, memory_bytes: u64::MAX, gpu_milli: u64::MAX, vram_bytes: 1 };
        for finding in findings(&course, &request) {
            prop_assert!(!finding.evidence.is_empty());
        }
        prop_assert_eq!(curve(&course).is_some(), course.points().len() > 1);
    }
}
