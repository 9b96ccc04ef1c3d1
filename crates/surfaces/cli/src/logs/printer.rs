//! Output as text: which stream a piece goes to and how it looks there.

use rest::wire::LogItem;
use tokio::io::AsyncWriteExt as _;

use super::ReadItem;
use crate::error::Error;
use crate::output::amounts::{bytes, moment, plain};
use crate::terminal::Terminal;

/// Prints items: the command's output to the stream that it wrote to, what muster has to say to standard error.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    json: bool,
    head: Head,
    /// Say changes of state.
    states: bool,
    /// The reason that was said last: a new state often has the same.
    last_reason: String,
    out: Column,
    err: Column,
}

/// What stands before each line.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// When it was printed.
    time: bool,
    /// By which rank, if there are several.
    rank: bool,
}

impl Head {
    fn text(self, at: u64, rank: Option<u32>) -> String {
        let mut text = String::new();
        if let Some(rank) = rank.filter(|_| self.rank) {
            text.push_str(&format!("[{rank}] "));
        }
        if self.time {
            text.push_str(&format!("{} ", moment(at)));
        }
        text
    }
}

/// Whether a stream is in the middle of a line.
#[derive(Debug, Default)]
struct Column {
    in_line: bool,
    /// Whose text was the last.
    rank: Option<u32>,
}

/// What is to be written where.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Out(String),
    Err(String),
}

impl LogPrinter {
    /// A printer; `states`: say changes of state, as one wants when following.
    pub(crate) fn new(terminal: &Terminal, timestamps: bool, states: bool) -> Self {
        Self {
            json: terminal.json,
            head: Head {
                time: timestamps,
                rank: true,
            },
            states,
            last_reason: String::new(),
            out: Column::default(),
            err: Column::default(),
        }
    }

    /// The same without the numbers of ranks before the lines of experiments that have several.
    pub(crate) fn of_one_rank(mut self) -> Self {
        self.head.rank = false;
        self
    }

    /// Prints one item. Written by tokio, so that Ctrl-C is heard while a reader of the output is slow.
    ///
    /// # Errors
    /// The output is closed or full.
    pub(crate) async fn print(&mut self, item: &ReadItem) -> Result<(), Error> {
        match self.render(item) {
            None => Ok(()),
            Some(Piece::Out(text)) => {
                let mut out = tokio::io::stdout();
                out.write_all(text.as_bytes())
                    .await
                    .map_err(Error::Output)?;
                out.flush().await.map_err(Error::Output)
            }
            Some(Piece::Err(text)) => {
                let mut err = tokio::io::stderr();
                err.write_all(text.as_bytes())
                    .await
                    .map_err(Error::Output)?;
                err.flush().await.map_err(Error::Output)
            }
        }
    }

    fn render(&mut self, read: &ReadItem) -> Option<Piece> {
        if self.json {
            return Some(Piece::Out(format!("{}\n", read.json)));
        }
        match &read.item {
            LogItem::Console {
                at,
                rank,
                stream,
                text,
                ..
            } => {
                let head = self.head.text(*at, *rank);
                Some(match stream.as_str() {
                    "stdout" => Piece::Out(self.out.show(text, *rank, &head)),
                    _ => Piece::Err(self.err.show(text, *rank, &head)),
                })
            }
            // A metric is shown by its own line of output, if the command prints one.
            LogItem::Scalar { .. } => None,
            LogItem::Gap { bytes: lost, .. } => {
                let text = format!("{} of output were dropped here", bytes(*lost));
                Some(Piece::Err(self.err.own_line(&text)))
            }
            LogItem::State { state, reason } if self.states => {
                let is_news = !reason.is_empty() && *reason != self.last_reason;
                self.last_reason.clone_from(reason);
                let text = match is_news {
                    true => format!("{}: {}", plain(state), plain(reason)),
                    false => plain(state),
                };
                Some(Piece::Err(self.err.own_line(&text)))
            }
            LogItem::End { cause } if self.states => {
                Some(Piece::Err(self.err.own_line(&plain(&cause.text))))
            }
            LogItem::State { .. } | LogItem::End { .. } => None,
        }
    }
}

impl Column {
    /// The text as it came, with `head` before each line if there is one; lines of several ranks are not mixed.
    fn show(&mut self, text: &str, rank: Option<u32>, head: &str) -> String {
        let mut shown = String::with_capacity(text.len() + head.len() + 1);
        if self.in_line && self.rank != rank {
            shown.push('\n');
            self.in_line = false;
        }
        self.rank = rank;
        for line in text.split_inclusive('\n') {
            if !self.in_line {
                shown.push_str(head);
            }
            shown.push_str(line);
            self.in_line = !line.ends_with('\n');
        }
        shown
    }

    /// A line by muster.
    fn own_line(&mut self, text: &str) -> String {
        let start = if self.in_line { "\n" } else { "" };
        self.in_line = false;
        format!("{start}muster: {text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rest::wire::CauseView;

    fn printer(json: bool, timestamps: bool, states: bool) -> LogPrinter {
        LogPrinter {
            json,
            head: Head {
                time: timestamps,
                rank: true,
            },
            states,
            last_reason: String::new(),
            out: Column::default(),
            err: Column::default(),
        }
    }

    fn read(item: LogItem) -> ReadItem {
        ReadItem {
            json: serde_json::to_string(&item).unwrap(),
            item,
        }
    }

    fn console(stream: &str, text: &str) -> ReadItem {
        read(LogItem::Console {
            attempt: 1,
            rank: None,
            sequence: 1,
            at: 1_700_000_000_123,
            stream: stream.into(),
            text: text.into(),
        })
    }

    #[test]
    fn each_stream_goes_where_the_command_wrote_it_unchanged() {
        let mut printer = printer(false, false, true);
        let text = "a\u{1b}[31m\r b";
        assert_eq!(
            printer.render(&console("stdout", text)),
            Some(Piece::Out(text.into()))
        );
        assert_eq!(
            printer.render(&console("stderr", "oh\n")),
            Some(Piece::Err("oh\n".into()))
        );
        assert_eq!(
            printer.render(&console("muster", "no")),
            Some(Piece::Err("no".into()))
        );
    }

    #[test]
    fn a_time_stands_before_each_line_and_never_inside_one() {
        let mut printer = printer(false, true, true);
        let time = "2023-11-14T22:13:20.123Z";
        let mut show = |text: &str| match printer.render(&console("stdout", text)) {
            Some(Piece::Out(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(show("one\ntw"), format!("{time} one\n{time} tw"));
        assert_eq!(show("o\nthree\n"), format!("o\n{time} three\n"));
        assert_eq!(show("four"), format!("{time} four"));
    }

    #[test]
    fn each_line_of_a_gang_has_its_rank_and_no_two_are_mixed() {
        let of = |rank: u32, text: &str| {
            read(LogItem::Console {
                attempt: 1,
                rank: Some(rank),
                sequence: 1,
                at: 1_700_000_000_123,
                stream: "stdout".into(),
                text: text.into(),
            })
        };
        let mut printer = printer(false, false, true);
        let mut show = |item: &ReadItem| match printer.render(item) {
            Some(Piece::Out(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(show(&of(0, "one\ntw")), "[0] one\n[0] tw");
        assert_eq!(show(&of(1, "uno\n")), "\n[1] uno\n");
        assert_eq!(show(&of(0, "o\n")), "[0] o\n");
        assert_eq!(show(&of(0, "th")), "[0] th");
        assert_eq!(show(&of(0, "ree\n")), "ree\n");
    }

    #[test]
    fn news_of_muster_start_on_a_line_of_their_own() {
        let mut printer = printer(false, false, true);
        printer.render(&console("stderr", "half a line"));
        let state = read(LogItem::State {
            state: "running".into(),
            reason: "on n2".into(),
        });
        assert_eq!(
            printer.render(&state),
            Some(Piece::Err("\nmuster: running: on n2\n".into()))
        );
        let stopping = read(LogItem::State {
            state: "stopping".into(),
            reason: "on n2".into(),
        });
        assert_eq!(
            printer.render(&stopping),
            Some(Piece::Err("muster: stopping\n".into())),
            "the same reason is said once"
        );
        let gap = read(LogItem::Gap {
            attempt: 1,
            rank: None,
            bytes: 2048,
        });
        assert_eq!(
            printer.render(&gap),
            Some(Piece::Err(
                "muster: 2 KiB of output were dropped here\n".into()
            ))
        );
    }

    #[test]
    fn states_are_silent_unless_followed_and_json_is_as_it_came() {
        let end = read(LogItem::End {
            cause: CauseView {
                kind: "exit-code".into(),
                text: "exit code 3".into(),
                evidence: vec![],
                exit_code: 3,
                advice: vec![],
                findings: vec![],
            },
        });
        assert_eq!(printer(false, false, false).render(&end), None);
        assert_eq!(
            printer(true, false, false).render(&end),
            Some(Piece::Out(format!("{}\n", end.json)))
        );
    }
}
