//! Where the threads of Python programs were when their stacks were asked for, as `faulthandler` writes them
//! (`Python/traceback.c` of `CPython`): a head for each thread, then its frames, innermost first.

use crate::console::{Console, Line, short};
use crate::python::{Frame, frame, without_rank};

/// How the frames of a thread begin; `Thread` or `Current thread`, its number and in newer versions its name come before.
const HEAD_END: &str = "(most recent call first):";
/// Most different places that are told.
const MOST_PLACES: usize = 4;
/// Longest line of them.
const SHOWN_BYTES: usize = 300;

/// Each place where the threads that were asked stood, with how many stood there; none if nobody answered.
///
/// A program has many threads that wait for work: only the one that the signal met is told, which is the main one.
pub(crate) fn words(console: &Console) -> Vec<String> {
    let mut places: Vec<(String, usize)> = Vec::new();
    for stack in stacks(&console.err) {
        let Some(place) = place(&stack) else {
            continue;
        };
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, count)) => *count += 1,
            None => places.push((place, 1)),
        }
    }
    let more = places.len().saturating_sub(MOST_PLACES);
    let mut words: Vec<String> = places
        .iter()
        .take(MOST_PLACES)
        .map(|(place, count)| match count {
            1 => format!("Python was at {place}"),
            count => format!("{count} Python processes were at {place}"),
        })
        .collect();
    if more > 0 {
        words.push(format!(
            "and {more} were elsewhere: their stacks are in its output"
        ));
    }
    words
}

/// The current threads' frames, innermost first. Of several dumps by the same program the last counts, but who wrote which
/// is not told: all since the last question are taken, which are at the end and close together.
fn stacks(lines: &[Line]) -> Vec<Vec<Frame>> {
    /// The answers to one question come within this time.
    const TOGETHER_MS: u64 = 5_000;
    let mut found: Vec<(u64, Vec<Frame>)> = Vec::new();
    let mut is_inside = false;
    for line in lines {
        let text = without_rank(&line.text);
        if text.ends_with(HEAD_END) {
            is_inside = text.starts_with("Current thread") || text.starts_with("Stack");
            if is_inside {
                found.push((line.before_end_ms, Vec::new()));
            }
            continue;
        }
        match (frame(text), found.last_mut()) {
            (Some(frame), Some((_, frames))) if is_inside => frames.push(frame),
            _ => is_inside = false,
        }
    }
    let newest = found.iter().map(|(before_end, _)| *before_end).min();
    let since = newest.unwrap_or_default().saturating_add(TOGETHER_MS);
    let lately = found
        .into_iter()
        .filter(|(before_end, _)| *before_end <= since);
    lately.map(|(_, frames)| frames).collect()
}

/// The user's own innermost frame, and what it called where that is not theirs.
fn place(stack: &[Frame]) -> Option<String> {
    let innermost = stack.first()?;
    let theirs = stack.iter().find(|frame| frame.is_theirs());
    let words = match theirs {
        Some(frame) if frame != innermost => {
            format!("{} (in {})", frame.words(), innermost.words())
        }
        Some(frame) => frame.words(),
        None => innermost.words(),
    };
    Some(short(&words, SHOWN_BYTES))
}

#[cfg(test)]
mod tests {
    use types::{ConsoleStream, DurationMs};

    use super::*;
    use crate::Said;

    fn said(before_end: u64, text: &str) -> Said {
        Said {
            stream: ConsoleStream::Stderr,
            before_end: DurationMs(before_end),
            bytes: text.as_bytes().to_vec(),
        }
    }

    const WORKER: &str = "Thread 0x00007f1 (most recent call first):
  File \"/usr/lib/python3.11/threading.py\", line 324 in wait

Current thread 0x00007f2 [main] (most recent call first):
  File \"/usr/lib/python3.11/socket.py\", line 706 in readinto
  File \"/job/train.py\", line 12 in next_batch
  File \"/job/train.py\", line 40 in <module>
";

    #[test]
    fn the_users_own_line_is_told_with_what_it_waits_in() {
        let console = Console::read(&[said(100, WORKER)]);
        assert_eq!(
            words(&console),
            [
                "Python was at /job/train.py, line 12, in next_batch (in /usr/lib/python3.11/socket.py, line 706, in readinto)"
            ]
        );
    }

    #[test]
    fn processes_at_one_place_are_counted_and_answers_to_an_earlier_question_left_out() {
        let earlier = WORKER.replace("line 12", "line 99");
        let console =
            Console::read(&[said(60_000, &earlier), said(200, WORKER), said(100, WORKER)]);
        let words = words(&console);
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].starts_with("2 Python processes were at /job/train.py, line 12"));
    }

    #[test]
    fn who_never_answered_says_nothing_and_a_traceback_is_no_answer() {
        let raised = "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\nValueError: x\n";
        assert!(words(&Console::read(&[said(1, raised)])).is_empty());
        assert!(words(&Console::read(&[])).is_empty());
    }

    #[test]
    fn many_places_are_cut() {
        let many: String = (0..9)
            .map(|line| format!("Current thread 0x1 (most recent call first):\n  File \"a.py\", line {line} in f\n"))
            .collect();
        let words = words(&Console::read(&[said(1, &many)]));
        assert_eq!(words.len(), MOST_PLACES + 1);
        assert!(
            words[MOST_PLACES].contains("and 5 were elsewhere"),
            "{words:?}"
        );
    }
}
