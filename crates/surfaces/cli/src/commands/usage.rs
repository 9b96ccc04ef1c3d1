//! `muster usage`.

use rest::wire::SamplesView;

use crate::client::{encode, parse};
use crate::error::Error;
use crate::output::{self, Look};
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// Options of `muster usage`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name
    experiment: String,
    /// This attempt; default: the last one
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    /// This rank of an experiment on several nodes; default: the first
    #[arg(long, value_name = "NUMBER")]
    rank: Option<u32>,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let look = (!session.terminal.json).then(|| session.terminal.look());
    let path = path(arguments, look.as_ref());
    let get = async || session.client.get(&path).await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    if look.is_some() {
        let view: SamplesView = parse(&bytes, "samples")?;
        if view.summary.is_none() {
            return Err(Error::NoSamples {
                view: Box::new(view),
            });
        }
    }
    session.print(&bytes, "samples", output::usage)
}

/// As many points as the chart has columns; for programs as many as the node thinks fit.
fn path(arguments: &Arguments, look: Option<&Look>) -> String {
    let mut path = format!("/experiments/{}/samples", encode(&arguments.experiment));
    let points = look.map(|look| ("points", output::chart_columns(look)));
    let attempt = arguments.attempt.map(|attempt| ("attempt", attempt));
    let rank = arguments.rank.map(|rank| ("rank", rank));
    let all = points.into_iter().chain(attempt).chain(rank);
    for (number, (name, value)) in all.enumerate() {
        let mark = if number == 0 { '?' } else { '&' };
        path.push_str(&format!("{mark}{name}={value}"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_gets_a_point_per_column_and_a_program_what_the_node_thinks_fit() {
        let arguments = Arguments {
            experiment: "a b".into(),
            attempt: Some(2),
            rank: Some(3),
        };
        let look = Look {
            width: Some(114),
            ..Look::plain_at(0)
        };
        assert_eq!(
            path(&arguments, Some(&look)),
            "/experiments/a%20b/samples?points=60&attempt=2&rank=3"
        );
        assert_eq!(
            path(&arguments, None),
            "/experiments/a%20b/samples?attempt=2&rank=3"
        );
    }
}
