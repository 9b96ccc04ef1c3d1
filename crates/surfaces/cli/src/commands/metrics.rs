//! `muster metrics`.

use rest::wire::{MetricsView, SeriesView};

use crate::client::{encode, parse};
use crate::error::Error;
use crate::output;
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// Rows of a series that a person gets: as many as fit on a screen with the rest.
const ROWS: u32 = 20;

/// Options of `muster metrics`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name
    experiment: String,
    /// Only this metric, over its steps
    name: Option<String>,
    /// Over time instead of steps
    #[arg(long, requires = "name")]
    by_time: bool,
    /// From this step on; with --by-time from this time on, in milliseconds since 1970
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "name",
        allow_negative_numbers = true
    )]
    from: Option<i64>,
    /// Up to this step, or time, and with it
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "name",
        allow_negative_numbers = true
    )]
    to: Option<i64>,
    /// At most so many points, 2 to 2000; where there are more, neighbours are put together, with the least and the
    /// greatest of them (default: 20, and 200 for programs)
    #[arg(long, value_name = "NUMBER", requires = "name")]
    points: Option<u32>,
    /// This attempt; default: the last one
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    /// This rank of an experiment on several nodes; default: the first
    #[arg(long, value_name = "NUMBER")]
    rank: Option<u32>,
    /// Print lines of comma-separated values
    #[arg(long)]
    csv: bool,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let is_for_people = !session.terminal.json && !arguments.csv;
    let path = path(arguments, is_for_people);
    let get = async || session.client.get(&path).await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    match (&arguments.name, arguments.csv) {
        (None, true) => {
            let view: MetricsView = parse(&bytes, "metrics")?;
            session.terminal.print(&output::metrics_csv(&view))
        }
        (None, false) => session.print(&bytes, "metrics", output::metrics),
        (Some(_), true) => {
            let view: SeriesView = parse(&bytes, "a metric")?;
            session.terminal.print(&output::series_csv(&view))
        }
        (Some(_), false) => session.print(&bytes, "a metric", output::series),
    }
}

fn path(arguments: &Arguments, is_for_people: bool) -> String {
    let mut path = format!("/experiments/{}/metrics", encode(&arguments.experiment));
    let mut query = Vec::new();
    if let Some(name) = &arguments.name {
        path.push_str("/series");
        query.push(format!("name={}", encode(name)));
        if arguments.by_time {
            query.push("by=time".to_owned());
        }
        let rows = is_for_people.then_some(ROWS);
        let points = arguments.points.or(rows);
        query.extend(points.map(|points| format!("points={points}")));
        query.extend(arguments.from.map(|from| format!("from={from}")));
        query.extend(arguments.to.map(|to| format!("to={to}")));
    }
    query.extend(arguments.attempt.map(|number| format!("attempt={number}")));
    query.extend(arguments.rank.map(|number| format!("rank={number}")));
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query.join("&"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_asks_for_its_name_and_a_list_for_nothing() {
        let list = Arguments {
            experiment: "a b".into(),
            name: None,
            by_time: false,
            from: None,
            to: None,
            points: None,
            attempt: None,
            rank: None,
            csv: false,
        };
        assert_eq!(path(&list, true), "/experiments/a%20b/metrics");
        let series = Arguments {
            name: Some("val/acc".into()),
            by_time: true,
            from: Some(-5),
            attempt: Some(2),
            ..list
        };
        assert_eq!(
            path(&series, true),
            "/experiments/a%20b/metrics/series?name=val%2Facc&by=time&points=20&from=-5&attempt=2"
        );
        assert!(!path(&series, false).contains("points"));
    }
}
