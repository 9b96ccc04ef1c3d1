//! Tracebacks of Python in what a command said, and whether the last of them was its end.

use crate::console::{Console, Line, short};

/// How every traceback begins (`traceback.py` of `CPython`); a progress bar or `Original ` may stand before it.
const HEAD: &str = "Traceback (most recent call last):";
/// Between two tracebacks of a chain, when the second was raised `from` the first.
const DIRECT: &str = "The above exception was the direct cause of the following exception:";
/// The same, when the second happened in the handler of the first.
const DURING: &str = "During handling of the above exception, another exception occurred:";
/// Python ends soon after it printed why: what was printed longer ago was survived.
const LONGEST_END_MS: u64 = 30_000;
/// Longest part of a line that goes into evidence.
const SHOWN_BYTES: usize = 300;
/// Lines after an exception that are shown: the missing keys of a checkpoint, what CUDA advises.
const REST_LINES: usize = 4;
/// Files that are not the user's: what is installed, and what comes with Python.
const NOT_THEIRS: [&str; 5] = [
    "site-packages/",
    "dist-packages/",
    "/lib/python",
    "<frozen ",
    "<__array_function__",
];
/// What torchrun raises when one of its children ended badly (`torch/distributed/elastic/multiprocessing/errors`).
const TORCHRUN: &str = "ChildFailedError";
/// Exceptions that only say that another process raised one.
const MESSENGERS: [&str; 4] = [
    TORCHRUN,
    "ProcessRaisedException",
    "ProcessExitedException",
    "CalledProcessError",
];
/// What is printed after the exception that ends a program, by torch, torchrun, wandb and Python's own shutdown.
const AFTERMATH: [&str; 16] = [
    "CUDA kernel errors might be",
    "For debugging consider passing",
    "Compile with `TORCH_USE_CUDA_DSA`",
    "Device-side assertion",
    "wandb:",
    "sys:1: ",
    "[W",
    "[E",
    "E1",
    "E0",
    "W1",
    "W0",
    "====",
    "----",
    "Exception ignored in",
    "terminate called",
];

/// One line `File "x", line 3, in f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    file: String,
    line: String,
    function: String,
    code: String,
}

impl Frame {
    pub(crate) fn is_in(&self, file: &str) -> bool {
        self.file.rsplit('/').next() == Some(file)
    }

    pub(crate) fn is_theirs(&self) -> bool {
        !NOT_THEIRS.iter().any(|part| self.file.contains(part))
    }

    pub(crate) fn words(&self) -> String {
        let code = match self.code.as_str() {
            "" => String::new(),
            code => format!(": {}", short(code, SHOWN_BYTES / 2)),
        };
        let place = format!("{}, line {}", short(&self.file, SHOWN_BYTES / 2), self.line);
        match self.function.as_str() {
            "" | "<module>" => format!("{place}{code}"),
            function => format!("{place}, in {}{code}", short(function, 80)),
        }
    }
}

/// How it follows from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Alone,
    Direct,
    During,
}

/// One traceback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traceback {
    /// Name of the exception, with its module: `torch.OutOfMemoryError`.
    pub(crate) exception: String,
    pub(crate) message: String,
    /// Outermost first.
    pub(crate) frames: Vec<Frame>,
    link: Link,
    /// Places of its first line and of the exception among the lines of the stream.
    first: usize,
    last: usize,
}

impl Traceback {
    /// The name without its module.
    pub(crate) fn name(&self) -> &str {
        let name = self.exception.rsplit('.').next();
        name.unwrap_or(&self.exception)
    }

    /// Exception, and where the user's own code was.
    pub(crate) fn words(&self) -> String {
        let exception = short(&self.exception, 80);
        let said = match self.message.as_str() {
            "" => exception,
            message => format!("{exception}: {}", short(message, SHOWN_BYTES)),
        };
        let theirs = self.frames.iter().rev().find(|frame| frame.is_theirs());
        match theirs.or(self.frames.last()) {
            Some(frame) => format!("{said} ({})", frame.words()),
            None => said,
        }
    }
}

/// The last exception, with those from which it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    /// From the one that was raised last to the one that was raised first.
    pub(crate) chain: Vec<Traceback>,
    /// How many of the chain say what went wrong: the last one, and those that it was raised `from`.
    direct: usize,
    /// Nothing was said after it: it ended the program.
    pub(crate) is_end: bool,
    /// What was printed after its first line: the rest of its message, and the aftermath.
    pub(crate) rest: Vec<String>,
}

impl Raised {
    /// The tracebacks that say what went wrong, the last one first.
    pub(crate) fn reasons(&self) -> &[Traceback] {
        &self.chain[..self.direct]
    }

    /// Lines for a person.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (place, traceback) in self.chain.iter().enumerate().take(3) {
            let head = match (place, self.is_end) {
                (0, true) => "Python ended with",
                (0, false) => "the last traceback in its output",
                _ if place < self.direct => "which came from",
                _ => "while it handled",
            };
            words.push(format!("{head}: {}", traceback.words()));
        }
        words
    }
}

/// The last exception in the output: in standard error, else in standard output.
pub(crate) fn last_raised(console: &Console) -> Option<Raised> {
    in_stream(&console.err, &console.out).or_else(|| in_stream(&console.out, &console.err))
}

fn in_stream(lines: &[Line], others: &[Line]) -> Option<Raised> {
    let mut all = tracebacks(lines);
    let newest = all.last()?;
    let mut is_end = is_end(newest, lines, others);
    let after = lines.get(newest.last + 1..).unwrap_or_default();
    let rest = after.iter().map(|line| line.text.trim().to_owned());
    let rest = rest
        .filter(|text| !text.is_empty())
        .take(REST_LINES)
        .collect();
    let speaks_for_others = MESSENGERS.contains(&newest.name());
    if speaks_for_others && newest.link == Link::Alone && all.len() > 1 {
        // Of a child, which said why before.
        all.pop();
        let child = all.last()?;
        is_end &= ended_lately(child, lines);
    }
    let mut chain = Vec::new();
    let mut direct = 0;
    let mut link = Link::Direct;
    let mut only_direct = true;
    while let Some(traceback) = all.pop() {
        only_direct &= link == Link::Direct;
        direct += usize::from(only_direct);
        link = traceback.link;
        chain.push(traceback);
        if link == Link::Alone {
            break;
        }
    }
    Some(Raised {
        chain,
        direct,
        is_end,
        rest,
    })
}

fn ended_lately(traceback: &Traceback, lines: &[Line]) -> bool {
    let line = lines.get(traceback.last);
    line.is_some_and(|line| line.before_end_ms <= LONGEST_END_MS)
}

fn is_end(traceback: &Traceback, lines: &[Line], others: &[Line]) -> bool {
    let after = lines.get(traceback.last + 1..).unwrap_or_default();
    // The message of torchrun's is a table of its children.
    let is_table = traceback.name() == TORCHRUN;
    let goes_on = !is_table && after.iter().any(|line| !is_aftermath(&line.text));
    if goes_on || !ended_lately(traceback, lines) {
        return false;
    }
    // A logger wrote it: then the program lived on, unless it said nothing more anywhere.
    let before = traceback.first.checked_sub(1).and_then(|at| lines.get(at));
    let is_logged = before.is_some_and(|line| is_log_of_error(&line.text));
    let piece = lines.get(traceback.last).map_or(0, |line| line.piece);
    !(is_logged && others.iter().any(|line| line.piece > piece))
}

fn is_aftermath(text: &str) -> bool {
    let bare = without_rank(text);
    bare.is_empty() || bare.starts_with(' ') || AFTERMATH.iter().any(|head| bare.starts_with(head))
}

fn is_log_of_error(text: &str) -> bool {
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| matches!(word, "ERROR" | "CRITICAL" | "WARNING" | "EXCEPTION"))
}

/// Without the `[rank0]: ` or `[default0]:` that torch puts before the lines of each rank.
pub(crate) fn without_rank(text: &str) -> &str {
    let Some((rank, rest)) = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
    else {
        return text;
    };
    let number = rank
        .strip_prefix("rank")
        .or_else(|| rank.strip_prefix("default"));
    match number {
        Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            rest.strip_prefix(' ').unwrap_or(rest)
        }
        Some(_) | None => text,
    }
}

fn tracebacks(lines: &[Line]) -> Vec<Traceback> {
    let texts: Vec<&str> = lines.iter().map(|line| without_rank(&line.text)).collect();
    let mut found = Vec::new();
    let mut link = Link::Alone;
    let mut at = 0;
    while at < texts.len() {
        match texts[at] {
            DIRECT => link = Link::Direct,
            DURING => link = Link::During,
            "" => {}
            text if text.ends_with(HEAD) => {
                if let Some(traceback) = traceback(&texts, at, link) {
                    at = traceback.last;
                    found.push(traceback);
                }
                link = Link::Alone;
            }
            _ => link = Link::Alone,
        }
        at += 1;
    }
    found
}

/// The traceback whose head is at `first`; none if it is cut off before its exception.
fn traceback(texts: &[&str], first: usize, link: Link) -> Option<Traceback> {
    let mut frames: Vec<Frame> = Vec::new();
    for (at, text) in texts.iter().enumerate().skip(first + 1) {
        if let Some(frame) = frame(text) {
            frames.push(frame);
            continue;
        }
        if text.starts_with(' ') {
            let code = text.trim_start();
            let is_marks = code.chars().all(|letter| matches!(letter, '^' | '~' | ' '));
            if let Some(last) = frames.last_mut()
                && last.code.is_empty()
                && !is_marks
            {
                last.code = code.to_owned();
            }
            continue;
        }
        let (exception, message) = text.split_once(':').unwrap_or((text, ""));
        let is_name = exception
            .starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
            && exception
                .chars()
                .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'));
        return is_name.then(|| Traceback {
            exception: exception.to_owned(),
            message: message.trim().to_owned(),
            frames,
            link,
            first,
            last: at,
        });
    }
    None
}

/// A frame as a traceback has it, or as `faulthandler` writes it, without the comma.
pub(crate) fn frame(text: &str) -> Option<Frame> {
    let rest = text.trim_start().strip_prefix("File \"")?;
    let (file, rest) = rest.split_once("\", line ")?;
    let parts = rest.split_once(", in ").or_else(|| rest.split_once(" in "));
    let (line, function) = parts.unwrap_or((rest, ""));
    let is_number = line.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Frame {
        file: file.to_owned(),
        line: line.to_owned(),
        function: function.to_owned(),
        code: String::new(),
    })
}
