//! One cause out of all that was seen.

use types::{Bytes, Cause, CauseKind, DurationMs, Finding};

use crate::advice::advice;
use crate::claims::{Claim, claim_of};
use crate::console::{Console, short};
use crate::findings::findings;
use crate::loss;
use crate::python::{Raised, last_raised};
use crate::stacks;
use crate::{Course, Exit, Facts, LaunchFailure};

/// Lines of output in the evidence: what fits on a screen beside the rest.
const SHOWN_LINES: usize = 8;
/// The same where a traceback says more.
const SHOWN_BESIDE_TRACEBACK: usize = 4;
/// So much of a quote is compared with what is shown besides, which is cut.
const COMPARED_BYTES: usize = 200;
/// Points of the curve of memory.
const CURVE_POINTS: usize = 8;
/// Who held so much of the limit met it: the kernel kills for the next page, which it does not count.
const NEARLY_PERCENT: u64 = 95;
const SIGKILL: i32 = 9;

/// Why it ended; the evidence is never empty.
#[must_use]
pub fn diagnose(facts: &Facts<'_>) -> Cause {
    let console = Console::read(facts.console);
    let raised = last_raised(&console);
    let is_success = facts.exit == Exit::Code(0);
    let (kind, evidence, mut others) = match forced(facts) {
        Some((kind, evidence)) => (kind, evidence, Vec::new()),
        None if is_success => (
            CauseKind::Finished,
            vec![describe_exit(facts)],
            memory(facts),
        ),
        None => failed(facts, &console, raised.as_ref()),
    };
    if facts.launch.is_none() {
        others.extend(nan(facts, &console));
    }
    let mut found: Vec<Finding> = others.into_iter().map(as_finding).collect();
    found.extend(findings(facts.course, &facts.request));
    let (mut evidence, stood) = (evidence, stacks::words(&console));
    for finding in &mut found {
        if finding.kind == CauseKind::NoProgress && !stood.is_empty() {
            finding.evidence = format!("{}; {}", finding.evidence, stood.join("; "));
        }
    }
    if facts.stop.is_some() {
        evidence.extend(stood);
    }
    found.retain(|finding| finding.kind != kind);
    let mut seen = Vec::new();
    found.retain(|finding| {
        let is_new = !seen.contains(&finding.kind);
        seen.push(finding.kind.clone());
        is_new
    });
    let whole = Cause {
        advice: advice(&kind),
        findings: found,
        // The process that should have become it says nothing of the command.
        shell_code: facts.exit.shell_code().filter(|_| facts.launch.is_none()),
        ..Cause::new(kind, evidence)
    };
    whole.cut()
}

/// What muster did, or could not do: nothing that the command said changes that.
fn forced(facts: &Facts<'_>) -> Option<(CauseKind, Vec<String>)> {
    if let Some(failure) = facts.launch {
        return Some(not_launched(facts.command, failure));
    }
    let how = describe_exit(facts);
    if let Some((kind, text)) = facts.failure {
        return Some((kind.clone(), vec![text.clone(), how]));
    }
    let (kind, done) = facts.stop?;
    let evidence = [vec![done.to_owned(), how], forks_line(facts)].concat();
    Some((kind.clone(), evidence))
}

fn not_launched(command: &[String], failure: &LaunchFailure) -> (CauseKind, Vec<String>) {
    let command = command.first().cloned().unwrap_or_default();
    let starting = |error: &str| vec![format!("starting {command:?}: {error}")];
    match failure {
        LaunchFailure::Command(error) => {
            let evidence = starting(error);
            (CauseKind::CommandNotFound { command }, evidence)
        }
        LaunchFailure::NotAllowed(error) => {
            let evidence = starting(error);
            (CauseKind::PermissionDenied { what: command }, evidence)
        }
        LaunchFailure::WorkingDirectory(error) => (
            CauseKind::SourceTree,
            vec![format!("working directory {error}")],
        ),
        LaunchFailure::Preparation(error) => (
            CauseKind::HolderFailed,
            vec![format!("the job process could not be prepared: {error}")],
        ),
    }
}

/// It ended by itself and not well: the cause, and what holds besides.
fn failed(
    facts: &Facts<'_>,
    console: &Console,
    raised: Option<&Raised>,
) -> (CauseKind, Vec<String>, Vec<Claim>) {
    let mut claims = memory(facts);
    claims.extend(claim_of(console, raised, facts.exit, facts.disk));
    // An exception that says something else ended it, whatever the loss was.
    if !raised.is_some_and(|raised| raised.is_end) {
        claims.extend(nan(facts, console));
    }
    let mut said = raised.map(Raised::words).unwrap_or_default();
    said.extend(match raised {
        Some(raised) if raised.is_end => raised.rest.iter().map(|line| short(line, 480)).collect(),
        Some(_) => last_lines(console, SHOWN_BESIDE_TRACEBACK),
        None => last_lines(console, SHOWN_LINES),
    });
    let is_said = |line: &String| {
        let start = &line[..line.floor_char_boundary(COMPARED_BYTES)];
        said.iter().any(|said| said.contains(start))
    };
    let mut claims = claims.into_iter();
    let mut evidence = vec![describe_exit(facts)];
    let kind = match claims.next() {
        Some(claim) => {
            evidence.extend(claim.evidence.into_iter().filter(|line| !is_said(line)));
            claim.kind
        }
        None => match facts.exit {
            Exit::Code(code) => CauseKind::ExitCode(code),
            Exit::Signal(signal) => CauseKind::Signal(signal),
            Exit::Never => CauseKind::HolderFailed,
        },
    };
    evidence.extend(forks_line(facts));
    evidence.extend(said);
    (kind, evidence, claims.collect())
}

/// What the kernel counted. The count of a control group has its processes only, whatever the reason; that of the machine
/// has those of neighbours, too, and says something only where there is no other and it was killed.
fn memory(facts: &Facts<'_>) -> Vec<Claim> {
    let memory = facts.memory;
    let held = Bytes(memory.peak_bytes);
    let nearly = memory.limit_bytes / 100 * NEARLY_PERCENT;
    let by_limit = memory.limit_bytes > 0 && memory.peak_bytes >= nearly;
    let line = match (memory.kills, memory.machine_kills) {
        (Some(kills @ 1..), _) if by_limit => format!(
            "the kernel's memory limit killed {kills} of its processes: limit {}, most held {held}",
            Bytes(memory.limit_bytes)
        ),
        (Some(kills @ 1..), _) => format!(
            "the machine ran out of memory, and the kernel killed {kills} of its processes: most held {held}"
        ),
        (None, Some(kills @ 1..)) if was_killed(facts.exit) => format!(
            "the machine ran out of memory while it ran, and the kernel killed {kills} processes there: most held by this one {held}"
        ),
        (Some(_) | None, _) => return Vec::new(),
    };
    vec![Claim {
        kind: CauseKind::HostOutOfMemory,
        evidence: std::iter::once(line).chain(curve(facts.course)).collect(),
    }]
}

fn was_killed(exit: Exit) -> bool {
    exit.shell_code() == Some(128 + SIGKILL)
}

/// Memory over the run, in few numbers.
fn curve(course: &Course) -> Option<String> {
    let points = course.points();
    let length_ms = course.length_ms();
    let parts = CURVE_POINTS as u64;
    let held = (1..=parts).filter_map(|part| {
        let at_ms = u128::from(length_ms) * u128::from(part) / u128::from(parts);
        let point = points
            .iter()
            .find(|point| u128::from(point.at_ms) >= at_ms)?;
        Some(Bytes(point.memory_bytes).to_string())
    });
    let held: Vec<String> = held.collect();
    (points.len() > 1)
        .then(|| format!("memory over {}: {}", DurationMs(length_ms), held.join(", ")))
}

fn nan(facts: &Facts<'_>, console: &Console) -> Option<Claim> {
    let mut evidence = facts.losses.words();
    if evidence.is_empty() {
        evidence.extend(loss::in_console(console));
    }
    (!evidence.is_empty()).then_some(Claim {
        kind: CauseKind::NanLoss,
        evidence,
    })
}

fn as_finding(claim: Claim) -> Finding {
    Finding {
        advice: advice(&claim.kind).join("; "),
        evidence: claim.evidence.join("; "),
        kind: claim.kind,
    }
}

/// Says so when the limit of processes was met: a fork bomb, or a limit that is too low.
fn forks_line(facts: &Facts<'_>) -> Vec<String> {
    let line = |times| {
        format!(
            "{times} times it was not let make another process: limit {} processes and threads",
            facts.max_processes
        )
    };
    let met = facts.refused_forks.filter(|times| *times > 0);
    met.map(line).into_iter().collect()
}

/// The last lines of standard error; of standard output if it said nothing there.
fn last_lines(console: &Console, most: usize) -> Vec<String> {
    let (name, lines) = match console.err.iter().any(|line| !line.text.is_empty()) {
        true => ("stderr", &console.err),
        false => ("stdout", &console.out),
    };
    let texts = lines.iter().map(|line| line.text.as_str());
    let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
    let from = texts.len().saturating_sub(most);
    texts[from..]
        .iter()
        .map(|text| format!("{name}: {}", short(text, 480)))
        .collect()
}

fn describe_exit(facts: &Facts<'_>) -> String {
    let ran = facts.ran;
    match facts.exit {
        Exit::Code(code) => format!("the command ended with exit code {code} after {ran}"),
        Exit::Signal(signal) => format!(
            "the command was ended by signal {signal}{} after {ran}",
            signal_name(signal)
        ),
        Exit::Never => format!("the command had not ended after {ran}"),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        10 => " (SIGUSR1)",
        11 => " (SIGSEGV)",
        12 => " (SIGUSR2)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
