//! What to do about a cause: sentences for a person, most useful first.

use types::CauseKind;

use crate::xid::xid_meaning;

/// At most four lines; none where there is nothing to do, or where the evidence says it.
#[must_use]
pub fn advice(kind: &CauseKind) -> Vec<String> {
    if let CauseKind::GpuXid { xid } = kind {
        let known = xid_meaning(*xid).map(|known| known.remedy.to_owned());
        return known.into_iter().collect();
    }
    let lines = of_program(kind);
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// What a program and its command line did.
fn of_program(kind: &CauseKind) -> &'static [&'static str] {
    match kind {
        CauseKind::ExitCode(code) => of_code(*code),
        CauseKind::Signal(signal) => of_signal(*signal),
        CauseKind::CommandNotFound { .. } => &[
            "look for a typing error, and whether the program is installed on that machine; the source tree is where it starts, so its own files need `./` before their name",
        ],
        CauseKind::PermissionDenied { .. } => &[
            "`chmod +x` for a program of yours, or start it by its interpreter; for other files look at who may read or write them on that machine",
        ],
        CauseKind::ImportFailed { .. } => &[
            "add it to the packages of the experiment, or run it by the interpreter of the environment that has it",
        ],
        CauseKind::EnvironmentBuild => &[
            "the last lines of the build say what it could not find or make; all of them are in `muster logs`, and they name the packages to change",
        ],
        CauseKind::NanLoss => &[
            "lower the learning rate, clip gradients, look for NaN in the data; torch.autograd.set_detect_anomaly(True) says where it began",
        ],
        CauseKind::NoProgress => &[
            "look what it waits for: a Python program was asked for the stacks of its threads, which are in its output (`muster logs`)",
        ],
        CauseKind::NcclTimeout => &[
            "look at the other ranks: one that crashed, hangs or does another number of steps keeps the rest waiting",
            "NCCL_DEBUG=INFO shows which network it uses; NCCL_SOCKET_IFNAME chooses another",
        ],
        other => of_resources(other),
    }
}

/// What it used and had.
fn of_resources(kind: &CauseKind) -> &'static [&'static str] {
    match kind {
        CauseKind::HostOutOfMemory => &[
            "ask for more memory (`--memory`), or use less: smaller batches, fewer workers of the data loader, data that is read as it is needed",
        ],
        CauseKind::CudaOutOfMemory => &[
            "ask for more GPU memory (`--vram`) or a larger GPU, or use less: smaller batches with gradient accumulation, mixed precision, activation checkpointing",
            "if much is reserved but not allocated, set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        ],
        CauseKind::VramOveruse => &[
            "ask for more with `--vram`, or for a whole GPU with `--gpus 1`; what the driver counts for its processes is what it holds, CUDA's own part included",
        ],
        CauseKind::GpuFailed { .. } => {
            &["it is tried again on another GPU; have this one looked at"]
        }
        CauseKind::DiskFull => &[
            "ask for the disk that it needs (`--disk`), write less, or remove what is not needed on that machine",
        ],
        CauseKind::TimeLimit => {
            &["ask for more time (`--time`), and save checkpoints so that nothing is lost"]
        }
        CauseKind::LeakSuspected => &[
            "look for what is kept from step to step: lists of losses that are still tensors (use .item()), caches, figures that are not closed",
        ],
        CauseKind::DataStarved => &[
            "prepare data faster: more workers of the data loader with more `--cpus`, pinned memory, data prepared once and stored",
        ],
        CauseKind::GpuUnderused => &[
            "larger batches, or a part of a GPU (`--gpus 0.5`, `--vram`), so that others can use the rest",
        ],
        // What muster, a person or a machine did: the evidence says it.
        _ => &[],
    }
}

fn of_signal(signal: i32) -> &'static [&'static str] {
    match signal {
        4 => &["the program was built for another processor: build it on, or for, this machine"],
        6 => &["the program gave up by itself: its last lines say why"],
        7 => &[
            "often shared memory that ran out: fewer or no worker processes of the data loader, or a larger /dev/shm",
        ],
        8 | 11 => &[
            "mostly a bug in native code: run Python with `-X faulthandler` to see where it happens",
        ],
        9 => &[
            "nobody of muster sent it: somebody on the machine did, or the kernel for lack of memory (`dmesg` there says so)",
        ],
        _ => &[],
    }
}

/// What shells mean by a code.
fn of_code(code: i32) -> &'static [&'static str] {
    match code {
        126 => &["126 is what a shell returns for a file that it may not or cannot run"],
        127 => &["127 is what a shell returns for a command that it does not find"],
        137 => &[
            "137 is 128 + 9: one of its processes was killed, by somebody on the machine or by the kernel for lack of memory (`dmesg` there says so)",
        ],
        139 => &["139 is 128 + 11: one of its processes had a bug in native code"],
        _ => &[],
    }
}
