//! `muster queue`.

use rest::wire::{CreateQueueRequest, ExperimentSummary, MoveRequest, QueueView};

use crate::client::{Request, encode};
use crate::error::Error;
use crate::output;
use crate::output::amounts::plain;

use super::Session;

/// What to do with queues.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List queues
    Ls,
    /// Make a queue
    Create {
        /// Its name
        name: String,
        /// Queues of higher priority are served first
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i32,
    },
    /// Move a waiting experiment to another queue
    Move {
        /// Id, the start of one, or a name
        experiment: String,
        /// Where to
        queue: String,
    },
}

pub(super) async fn run(command: &Command, session: &Session) -> Result<(), Error> {
    match command {
        Command::Ls => {
            let text = |queues: &Vec<QueueView>, look: &_| output::queues(queues, look);
            session.show("/queues", "a list of queues", text).await
        }
        Command::Create { name, priority } => {
            let body = CreateQueueRequest {
                name: name.clone(),
                priority: *priority,
            };
            let bytes = session.change(|| Request::json("/queues", &body)).await?;
            session.print(&bytes, "a queue", |queue: &QueueView, _look| {
                format!("made queue {}", plain(&queue.name))
            })
        }
        Command::Move { experiment, queue } => {
            let path = format!("/experiments/{}/move", encode(experiment));
            let body = MoveRequest {
                queue: queue.clone(),
            };
            let bytes = session.change(|| Request::json(&path, &body)).await?;
            session.print(
                &bytes,
                "an experiment",
                |moved: &ExperimentSummary, _look| {
                    format!("{} is in queue {}", plain(&moved.id), plain(&moved.queue))
                },
            )
        }
    }
}
