//! Last words of Python, shells and libraries.

use super::*;

#[test]
fn cuda_out_of_memory_says_needed_free_and_by_whom() {
    let cause = of_stderr(1, OOM);
    assert_eq!(cause.kind, CauseKind::CudaOutOfMemory);
    assert_eq!(cause.exit_code(), 1);
    println!("{}\n{}", cause.evidence.join("\n"), cause.advice.join("\n"));
    assert_eq!(
        cause.evidence[1],
        "it needed 2.50 GiB, 1.21 GiB was free, the GPU has 79.15 GiB"
    );
    assert_eq!(
        cause.evidence[2],
        "the process itself held 37.94 GiB, process 4711 held 40.00 GiB, 36.10 GiB in tensors, 1.02 GiB reserved without use"
    );
    let traceback = cause
        .evidence
        .iter()
        .find(|line| line.starts_with("Python ended with"));
    let traceback = traceback.unwrap();
    assert!(
        traceback.contains("/home/ann/train.py, line 71, in main: loss = model(batch).mean()"),
        "{traceback}"
    );
    let old = "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.78 GiB total capacity; 13.48 GiB already allocated; 1.13 GiB free; 13.56 GiB reserved in total by PyTorch)";
    let text = format!(
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\n{old}\n"
    );
    let cause = of_stderr(1, &text);
    assert_eq!(cause.kind, CauseKind::CudaOutOfMemory);
    assert_eq!(
        cause.evidence[1],
        "it needed 2.00 GiB, 1.13 GiB was free, the GPU has 15.78 GiB"
    );
    let abort = "terminate called after throwing an instance of 'c10::OutOfMemoryError'\n  what():  CUDA out of memory. Tried to allocate 20.00 MiB.\n";
    let cause = of(Exit::Signal(6), &[said(ConsoleStream::Stderr, 5, abort)]);
    assert_eq!(
        (&cause.kind, cause.exit_code()),
        (&CauseKind::CudaOutOfMemory, 134)
    );
    for message in [
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,000,000,000 bytes (allocated so far: 0 bytes).",
        "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1.",
    ] {
        let text = format!(
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\n{message}\n"
        );
        assert_eq!(
            of_stderr(1, &text).kind,
            CauseKind::CudaOutOfMemory,
            "{message}"
        );
    }
}

#[test]
fn the_exception_that_ended_it_names_the_cause() {
    let import = |what: &str| CauseKind::ImportFailed {
        what: what.to_owned(),
    };
    let denied = CauseKind::PermissionDenied {
        what: "/data/set".to_owned(),
    };
    for (message, kind) in [
        (
            "ModuleNotFoundError: No module named 'einops'",
            import("einops"),
        ),
        (
            "ImportError: cannot import name 'Trainer' from 'transformers' (/v/transformers/__init__.py)",
            import("Trainer from transformers"),
        ),
        (
            "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory",
            import("libcudart.so.11.0"),
        ),
        (
            "OSError: libsndfile.so: cannot open shared object file: No such file or directory",
            import("libsndfile.so"),
        ),
        (
            "PermissionError: [Errno 13] Permission denied: '/data/set'",
            denied,
        ),
        (
            "OSError: [Errno 28] No space left on device: 'out.pt'",
            CauseKind::DiskFull,
        ),
        (
            "OSError: [Errno 122] Disk quota exceeded",
            CauseKind::DiskFull,
        ),
        (
            "FloatingPointError: Loss became infinite or NaN at iteration=120!",
            CauseKind::NanLoss,
        ),
        (
            "RuntimeError: Function 'MulBackward0' returned nan values in its 0th output.",
            CauseKind::NanLoss,
        ),
        ("ValueError: bad shape", CauseKind::ExitCode(1)),
        (
            "OSError: [Errno 28] inotify watch limit reached: No space left on device inotify",
            CauseKind::ExitCode(1),
        ),
        ("ValueError: Input X contains NaN.", CauseKind::ExitCode(1)),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
            CauseKind::ExitCode(1),
        ),
        ("KeyError", CauseKind::ExitCode(1)),
    ] {
        expect_raised(message, &kind);
    }
}

/// An exception of this cause, also as torch prints that of one rank.
#[track_caller]
fn expect_raised(message: &str, kind: &CauseKind) {
    let cause = of_stderr(1, &raised(message));
    assert_eq!(&cause.kind, kind, "{message}");
    let mut lines = cause.evidence.iter();
    let shown = lines.find(|line| line.starts_with("Python ended with"));
    assert!(
        shown.unwrap().contains("/home/ann/a.py, line 3: go()"),
        "{cause:?}"
    );
    let ranked: String = raised(message)
        .lines()
        .map(|line| format!("[rank0]: {line}\n"))
        .collect();
    assert_eq!(&of_stderr(1, &ranked).kind, kind, "{ranked}");
}

#[test]
fn a_child_that_could_not_be_started_is_a_missing_command() {
    let child = "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    run(['nvcc'])\n  File \"/usr/lib/python3.11/subprocess.py\", line 1955, in _execute_child\n    raise child_exception_type(errno_num, err_msg, err_filename)\nFileNotFoundError: [Errno 2] No such file or directory: 'nvcc'\n";
    let nvcc = CauseKind::CommandNotFound {
        command: "nvcc".to_owned(),
    };
    assert_eq!(of_stderr(1, child).kind, nvcc);
    assert_eq!(of_stderr(1, child).exit_code(), 1);
}

#[test]
fn a_chain_is_followed_to_what_it_was_raised_from_but_not_to_what_was_handled() {
    let direct = "\nThe above exception was the direct cause of the following exception:\n\n";
    let during = "\nDuring handling of the above exception, another exception occurred:\n\n";
    let first = raised("ModuleNotFoundError: No module named 'flash_attn'");
    let second = raised("RuntimeError: could not make the model");
    let cause = of_stderr(1, &format!("{first}{direct}{second}"));
    let what = "flash_attn".to_owned();
    assert_eq!(cause.kind, CauseKind::ImportFailed { what });
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.starts_with("which came from: ModuleNotFoundError")),
        "{cause:?}"
    );
    let cause = of_stderr(1, &format!("{first}{during}{second}"));
    assert_eq!(cause.kind, CauseKind::ExitCode(1));
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.starts_with("while it handled: ModuleNotFoundError")),
        "{cause:?}"
    );
    // torchrun raises one of its own about the child that said why.
    let torchrun = raised("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ");
    let table = "============================================================\ntrain.py FAILED\n------------------------------------------------------------\nFailures:\n  <NO_OTHER_FAILURES>\n------------------------------------------------------------\nRoot Cause (first observed failure):\n[0]:\n  time      : 2026-11-30_12:00:00\n  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 4711)\n";
    let line = "E1130 12:00:00.1 9 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1)\n";
    let cause = of_stderr(1, &format!("{OOM}{line}{torchrun}{table}"));
    assert_eq!(cause.kind, CauseKind::CudaOutOfMemory);
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.starts_with("Python ended with: torch.OutOfMemoryError")),
        "{cause:#?}"
    );
}

#[test]
fn what_was_survived_is_not_why_it_ended() {
    let import = raised("ModuleNotFoundError: No module named 'apex'");
    let exit = CauseKind::ExitCode(1);
    let said_later = "epoch 1\nepoch 2\nerror: the checkpoint does not fit the model\n";
    for text in [
        // Caught, printed, and the program went on; so did the parent of a child that died of it.
        format!("{import}{said_later}"),
        format!("{OOM}batch of 64 is too large, trying 32\n{said_later}"),
        // The word alone.
        "worker 3 killed, restarted\nKilled process list is empty\n".to_owned(),
        "the user asked about CUDA out of memory, disk full, NaN\n".to_owned(),
        "warning: cache not written: No space left on device, continuing without\n".to_owned(),
        "train: CUDA out of memory. Reducing batch size to 8 and retrying\n".to_owned(),
        // Cut off before the exception.
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n".to_owned(),
        "val_auc: nan\nval_loss: nan\n".to_owned(),
        "loss: nan\nloss: 0.25\n".to_owned(),
        "/usr/bin/foo: not found in cache\n".to_owned(),
    ] {
        let cause = of_stderr(1, &text);
        assert_eq!((&cause.kind, cause.findings.len()), (&exit, 0), "{text}");
    }
    let cause = of_stderr(1, &format!("{import}{said_later}"));
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.starts_with("the last traceback in its output: ModuleNotFoundError")),
        "{cause:?}"
    );
    // Long before the end.
    let old = [said(ConsoleStream::Stderr, 600_000, &import)];
    assert_eq!(of(Exit::Code(1), &old).kind, exit);
    // Logged, and standard output went on; but a program that logs why it ends says nothing more.
    let logged = format!("2026-11-30 ERROR no apex, using the slow path\n{import}");
    let mut console = vec![
        said(ConsoleStream::Stderr, 900, &logged),
        said(ConsoleStream::Stdout, 800, "epoch 1 done\n"),
    ];
    assert_eq!(of(Exit::Code(1), &console).kind, exit);
    console.reverse();
    let what = "apex".to_owned();
    assert_eq!(
        of(Exit::Code(1), &console).kind,
        CauseKind::ImportFailed { what }
    );
    // Whatever it said, it went well.
    assert_eq!(of_stderr(0, OOM).kind, CauseKind::Finished);
}

#[test]
fn shells_and_loaders_name_what_is_missing() {
    let command = |name: &str| CauseKind::CommandNotFound {
        command: name.to_owned(),
    };
    let library = |what: &str| CauseKind::ImportFailed {
        what: what.to_owned(),
    };
    for (code, text, kind) in [
        (127, "sh: 1: torchrun: not found", command("torchrun")),
        (
            127,
            "bash: line 1: torchrun: command not found",
            command("torchrun"),
        ),
        (
            127,
            "/usr/bin/env: ‘python’: No such file or directory",
            command("python"),
        ),
        (
            127,
            "./a: error while loading shared libraries: libmpi.so.40: cannot open shared object file: No such file or directory",
            library("libmpi.so.40"),
        ),
        (
            1,
            "./a: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./a)",
            library("GLIBC_2.38"),
        ),
        (
            1,
            "/usr/bin/python3: No module named torch.distributed",
            library("torch.distributed"),
        ),
        (
            126,
            "sh: 1: ./run.sh: Permission denied",
            CauseKind::PermissionDenied {
                what: "./run.sh".to_owned(),
            },
        ),
        (
            1,
            "cp: error writing '/out/a': No space left on device",
            CauseKind::DiskFull,
        ),
        // A shell that goes on: the code is that of something else.
        (3, "sh: 1: nvidia-smi: not found", CauseKind::ExitCode(3)),
        (1, "cat: /root/x: Permission denied", CauseKind::ExitCode(1)),
    ] {
        let cause = of_stderr(code, &format!("{text}\n"));
        assert_eq!(cause.kind, kind, "{text}");
        assert_eq!(cause.exit_code(), code, "{text}");
    }
    let full = of_stderr(1, "cp: error writing '/out/a': No space left on device\n");
    assert!(
        full.evidence
            .contains(&"the disk of the experiment has 4 KiB free".to_owned()),
        "{full:?}"
    );
}

#[test]
fn nccl_that_waited_in_vain_is_told_from_other_aborts() {
    let watchdog = "[rank1]:[E1130 12:00:00.1 ProcessGroupNCCL.cpp:607] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600019 milliseconds before timing out.\nterminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG ID 0] NCCL watchdog thread terminated with exception\n";
    let cause = of(
        Exit::Signal(6),
        &[said(ConsoleStream::Stderr, 2_000, watchdog)],
    );
    assert_eq!(cause.kind, CauseKind::NcclTimeout);
    assert!(
        cause.evidence.iter().any(|line| line.contains("ALLREDUCE")),
        "{cause:?}"
    );
    let abort = "free(): invalid pointer\n";
    let cause = of(Exit::Signal(6), &[said(ConsoleStream::Stderr, 0, abort)]);
    assert_eq!(cause.kind, CauseKind::Signal(6));
    assert!(cause.evidence[0].contains("SIGABRT"), "{cause:?}");
}

#[test]
fn the_rest_of_a_message_is_shown_and_nothing_twice() {
    let text = raised(
        "RuntimeError: Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: \"head.weight\".",
    );
    let cause = of_stderr(1, &text);
    assert_eq!(cause.evidence.len(), 3, "{cause:#?}");
    assert!(
        cause.evidence[2].starts_with("Missing key(s)"),
        "{cause:#?}"
    );
    let cause = of_stderr(1, OOM);
    let told = cause
        .evidence
        .iter()
        .filter(|line| line.contains("Tried to allocate"));
    assert_eq!(told.count(), 1, "{cause:#?}");
}
