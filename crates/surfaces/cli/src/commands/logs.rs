//! `muster logs`, and the following of `muster run -f`.

use std::process::ExitCode;

use rest::wire::LogItem;

use crate::error::Error;
use crate::logs::{Follower, LogPrinter, LogQuery, LogReader};
use crate::retry::while_unavailable;

use super::{INTERRUPTED, READ_WINDOW, Session, exit_code};

/// Options of `muster logs`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name
    experiment: String,
    /// Go on until the experiment ends
    #[arg(short, long)]
    follow: bool,
    /// Only this attempt
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    /// Only this rank of an experiment on several nodes
    #[arg(long, value_name = "NUMBER")]
    rank: Option<u32>,
    /// From this record on
    #[arg(long, value_name = "NUMBER", requires = "attempt")]
    from: Option<u64>,
    /// Only the last so many lines, then, with -f, what comes
    #[arg(long, value_name = "LINES", conflicts_with = "from")]
    tail: Option<u64>,
    /// Put the time (UTC) before each line
    #[arg(short, long)]
    timestamps: bool,
}

pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<ExitCode, Error> {
    let query = LogQuery {
        experiment: arguments.experiment,
        attempt: arguments.attempt,
        rank: arguments.rank,
        from: arguments.from,
        tail: arguments.tail,
    };
    let follow = arguments.follow;
    let mut printer = LogPrinter::new(&session.terminal, arguments.timestamps, follow);
    if query.rank.is_some() {
        printer = printer.of_one_rank();
    }
    if follow {
        let mut follower = Follower::new(&session.client, query, &session.terminal);
        return Ok(match followed(&mut follower, &mut printer).await? {
            Some(_) => ExitCode::SUCCESS,
            None => ExitCode::from(INTERRUPTED),
        });
    }
    let open = async || LogReader::open(&session.client, &query).await;
    let mut reader = while_unavailable(READ_WINDOW, &session.terminal, open).await?;
    while let Some(item) = reader.next().await? {
        printer.print(&item).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints an experiment's output until its end, and gives its exit code; none after Ctrl-C.
pub(super) async fn followed(
    follower: &mut Follower,
    printer: &mut LogPrinter,
) -> Result<Option<ExitCode>, Error> {
    let follow = async {
        let mut code = ExitCode::FAILURE;
        while let Some(item) = follower.next().await? {
            printer.print(&item).await?;
            if let LogItem::End { cause } = item.item {
                code = exit_code(cause.exit_code);
            }
        }
        Ok(code)
    };
    tokio::select! {
        code = follow => code.map(Some),
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Ok(None),
            Err(source) => Err(Error::Signal(source)),
        },
    }
}
