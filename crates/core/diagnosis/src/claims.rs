//! Causes that a command named with its last words. Only last words count: the exception that ended it, or, without one,
//! the last lines of an output that ends with an error.

use types::CauseKind;

use crate::console::{Console, Line, short};
use crate::python::{Raised, Traceback, without_rank};
use crate::{Disk, Exit};

/// Lines at the end of a stream that are its last words.
const LAST_LINES: usize = 3;
/// The watchdog of NCCL speaks, then waits for the other threads, then aborts.
const WATCHDOG_MS: u64 = 120_000;
/// Longest name of a file or module.
const NAME_BYTES: usize = 160;
/// Longest quote.
const QUOTE_BYTES: usize = 480;

/// A cause with the lines that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) kind: CauseKind,
    pub(crate) evidence: Vec<String>,
}

fn claim(kind: CauseKind, quote: &str) -> Claim {
    Claim {
        kind,
        evidence: vec![short(quote, QUOTE_BYTES)],
    }
}

/// What the last words say of an end that was no success.
pub(crate) fn claim_of(
    console: &Console,
    raised: Option<&Raised>,
    exit: Exit,
    disk: Option<Disk>,
) -> Option<Claim> {
    let mut claim = watchdog(console).or_else(|| match raised.filter(|raised| raised.is_end) {
        Some(raised) => raised.reasons().iter().find_map(of_exception),
        None => of_last_lines(console, exit),
    })?;
    if claim.kind == CauseKind::DiskFull {
        claim.evidence.extend(disk.map(disk_line));
    }
    Some(claim)
}

fn disk_line(disk: Disk) -> String {
    let elsewhere = "it wrote to another file system, such as /dev/shm or /tmp, or met a quota";
    match disk {
        Disk {
            free_files: Some(0),
            ..
        } => "the disk of the experiment has no room for more files".to_owned(),
        Disk { free_bytes, .. } if free_bytes > 1 << 30 => format!(
            "the disk of the experiment has {} free: {elsewhere}",
            types::Bytes(free_bytes)
        ),
        Disk { free_bytes, .. } => format!(
            "the disk of the experiment has {} free",
            types::Bytes(free_bytes)
        ),
    }
}

/// `Watchdog caught collective operation timeout` of torch's `ProcessGroupNCCL`, after which it ends the process.
fn watchdog(console: &Console) -> Option<Claim> {
    let is_it = |line: &&Line| {
        let text = &line.text;
        let says = text.contains("Watchdog caught collective operation timeout")
            || text.contains("Work NCCL") && text.contains("timed out");
        says && line.before_end_ms <= WATCHDOG_MS
    };
    let line = console.err.iter().chain(&console.out).find(is_it)?;
    Some(claim(CauseKind::NcclTimeout, &line.text))
}

fn of_exception(traceback: &Traceback) -> Option<Claim> {
    let message = &traceback.message;
    let whole = format!("{}: {message}", traceback.exception);
    if let Some(claim) = of_cuda(&whole) {
        return Some(claim);
    }
    let kind = match traceback.name() {
        "ModuleNotFoundError" | "ImportError" => CauseKind::ImportFailed {
            what: import_name(message),
        },
        "OSError" if message.contains("cannot open shared object file") => {
            CauseKind::ImportFailed {
                what: import_name(message),
            }
        }
        "FileNotFoundError"
            if traceback
                .frames
                .last()
                .is_some_and(|frame| frame.is_in("subprocess.py")) =>
        {
            CauseKind::CommandNotFound {
                command: quoted(message),
            }
        }
        "PermissionError" => CauseKind::PermissionDenied {
            what: quoted(message),
        },
        "FloatingPointError" if names_nan(message) => CauseKind::NanLoss,
        _ if names_nan(message) && message.to_ascii_lowercase().contains("loss") => {
            CauseKind::NanLoss
        }
        // Of torch.autograd.set_detect_anomaly.
        _ if message.contains("returned nan values in its") => CauseKind::NanLoss,
        _ if says_disk_full(message) => CauseKind::DiskFull,
        _ if message.contains("Watchdog")
            && message.contains("timeout")
            && whole.contains("NCCL") =>
        {
            CauseKind::NcclTimeout
        }
        _ => return None,
    };
    Some(claim(kind, &whole))
}

/// Messages of torch, CUDA, JAX, `TensorFlow` and `CuPy` about memory of GPUs.
fn of_cuda(text: &str) -> Option<Claim> {
    let says = [
        "CUDA out of memory",
        "CUDA error: out of memory",
        "cudaErrorMemoryAllocation",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "HIP out of memory",
    ];
    let lower = text.to_ascii_lowercase();
    let by_others = lower.contains("resource_exhausted: out of memory while trying to allocate")
        || lower.contains("resourceexhaustederror")
            && lower.contains("oom when allocating")
            && lower.contains("gpu:")
        || text.starts_with("cupy") && text.contains("OutOfMemoryError");
    if !by_others && !says.iter().any(|words| text.contains(words)) {
        return None;
    }
    let mut found = claim(CauseKind::CudaOutOfMemory, text);
    found.evidence.splice(0..0, amounts(text));
    Some(found)
}

/// What was needed, what was free, and who held the rest, out of torch's sentence (`CUDACachingAllocator.cpp`).
fn amounts(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let after = |words: &str| text.split_once(words).and_then(|(_, rest)| amount(rest));
    let before = |words: &str| {
        text.split_once(words)
            .and_then(|(rest, _)| last_amount(rest))
    };
    if let Some(needed) = after("Tried to allocate ") {
        parts.push(format!("it needed {needed}"));
    }
    if let Some(free) = before(" is free").or_else(|| before(" free;")) {
        parts.push(format!("{free} was free"));
    }
    let total = after("total capacity of ").or_else(|| before(" total capacity;"));
    if let Some(total) = total {
        parts.push(format!("the GPU has {total}"));
    }
    let mut lines = Vec::new();
    if !parts.is_empty() {
        lines.push(parts.join(", "));
    }
    let mut holders = Vec::new();
    if let Some(own) = after("this process has ") {
        holders.push(format!("the process itself held {own}"));
    }
    for piece in text.split("Process ").skip(1).take(4) {
        let (pid, rest) = piece.split_once(' ').unwrap_or((piece, ""));
        let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(held) = rest
            .strip_prefix("has ")
            .and_then(amount)
            .filter(|_| is_pid)
        {
            holders.push(format!("process {pid} held {held}"));
        }
    }
    if let Some(held) = before(" is allocated by PyTorch").or_else(|| before(" already allocated;"))
    {
        holders.push(format!("{held} in tensors"));
    }
    if let Some(held) = before(" is reserved by PyTorch but unallocated") {
        holders.push(format!("{held} reserved without use"));
    }
    if !holders.is_empty() {
        lines.push(holders.join(", "));
    }
    lines
}

/// `20.00 MiB` at the start.
fn amount(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    let (number, unit) = (words.next()?, words.next()?);
    let unit = unit.trim_end_matches(|letter: char| !letter.is_ascii_alphabetic());
    is_amount(number, unit).then(|| format!("{number} {unit}"))
}

/// The same at the end.
fn last_amount(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace().rev();
    let (unit, number) = (words.next()?, words.next()?);
    let number = number.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    is_amount(number, unit).then(|| format!("{number} {unit}"))
}

fn is_amount(number: &str, unit: &str) -> bool {
    let is_unit = matches!(unit, "bytes" | "B" | "KiB" | "MiB" | "GiB" | "TiB");
    is_unit && number.len() <= 20 && number.parse::<f64>().is_ok()
}

/// `No module named 'x'`, `cannot import name 'y' from 'x'`, `libz.so.1: cannot open …`.
fn import_name(message: &str) -> String {
    if let Some((_, rest)) = message.split_once("cannot import name ") {
        let name = quoted(rest);
        let from = rest.split_once(" from ").map(|(_, rest)| quoted(rest));
        return match from {
            Some(from) => short(&format!("{name} from {from}"), NAME_BYTES),
            None => name,
        };
    }
    if message.contains("No module named") {
        return quoted(message);
    }
    match message.split_once(": ") {
        Some((library, _)) if library.contains(".so") => short(library, NAME_BYTES),
        Some(_) | None => short(message, NAME_BYTES),
    }
}

/// What stands between the first quotes; all of it without some.
fn quoted(text: &str) -> String {
    let is_quote = |letter: char| matches!(letter, '\'' | '"' | '`' | '‘' | '’');
    let mut parts = text.split(is_quote);
    let all = parts.next().unwrap_or_default();
    short(parts.next().unwrap_or(all).trim(), NAME_BYTES)
}

fn names_nan(message: &str) -> bool {
    let mut words = message.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case("nan") || word.eq_ignore_ascii_case("nans"))
}

/// ENOSPC and EDQUOT in words. inotify and friends have limits of their own that use the same number.
fn says_disk_full(text: &str) -> bool {
    let says = ["No space left on device", "Disk quota exceeded"];
    says.iter().any(|words| text.contains(words)) && !text.contains("inotify")
}

fn of_last_lines(console: &Console, exit: Exit) -> Option<Claim> {
    let lines = match last_words(&console.err) {
        lines if lines.is_empty() => last_words(&console.out),
        lines => lines,
    };
    lines.iter().rev().find_map(|text| of_line(text, exit))
}

/// The last lines that say something, oldest first.
fn last_words(lines: &[Line]) -> Vec<&str> {
    let texts = lines
        .iter()
        .rev()
        .map(|line| without_rank(&line.text).trim());
    let mut words: Vec<&str> = texts
        .filter(|text| !text.is_empty())
        .take(LAST_LINES)
        .collect();
    words.reverse();
    words
}

fn of_line(text: &str, exit: Exit) -> Option<Claim> {
    if text.contains("error while loading shared libraries: ") {
        let (_, rest) = text.split_once("libraries: ")?;
        let what = import_name(rest);
        return Some(claim(CauseKind::ImportFailed { what }, text));
    }
    if text.contains(": version `")
        && text.ends_with(')')
        && text.contains("' not found (required by ")
    {
        let what = quoted(text);
        return Some(claim(CauseKind::ImportFailed { what }, text));
    }
    match exit {
        Exit::Code(127) => {
            let command = missing_command(text)?;
            return Some(claim(CauseKind::CommandNotFound { command }, text));
        }
        Exit::Code(126) if text.ends_with("Permission denied") => {
            let before = text.rsplit(": ").nth(1).unwrap_or(text);
            let what = short(before, NAME_BYTES);
            return Some(claim(CauseKind::PermissionDenied { what }, text));
        }
        Exit::Code(_) | Exit::Signal(_) | Exit::Never => {}
    }
    // `python: No module named x` of `python -m x`.
    if let Some((program, name)) = text.split_once(": No module named ")
        && program.contains("python")
    {
        let what = short(name.trim_matches('\''), NAME_BYTES);
        return Some(claim(CauseKind::ImportFailed { what }, text));
    }
    if says_disk_full(text) && is_error(text) {
        return Some(claim(CauseKind::DiskFull, text));
    }
    let is_what = text.starts_with("what():") || is_error(text);
    is_what.then(|| of_cuda(text)).flatten()
}

/// A message of a program that gives up, as against one that goes on: `program: …`, `error: …`.
fn is_error(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let goes_on = [
        "warn",
        "retry",
        "retrying",
        "skipping",
        "ignor",
        "continu",
        "reducing",
        "falling back",
    ];
    !goes_on.iter().any(|word| lower.contains(word)) && text.contains(": ")
}

/// `sh: 1: x: not found`, `bash: line 1: x: command not found`, `env: 'x': No such file or directory`.
fn missing_command(text: &str) -> Option<String> {
    let before = text
        .strip_suffix(": command not found")
        .or_else(|| text.strip_suffix(": not found"));
    if let Some(before) = before {
        let name = before.rsplit(": ").next().unwrap_or(before);
        return Some(short(name, NAME_BYTES));
    }
    let before = text.strip_suffix(": No such file or directory")?;
    let name = before.rsplit(": ").next().unwrap_or(before);
    Some(quoted_or_all(name))
}

fn quoted_or_all(text: &str) -> String {
    let is_quote = |letter: char| matches!(letter, '\'' | '"' | '`' | '‘' | '’');
    short(text.trim_matches(is_quote), NAME_BYTES)
}
