//! `muster queue`.

use hyper::Method;
use rest::wire::{
    CreateQueueRequest, ExperimentSummary, LimitsView, MoveRequest, OrderRequest, PauseRequest,
    QueueView, ShapeQueueRequest,
};
use serde::Serialize;
use types::{parse_bytes, parse_cpus, parse_gpus};

use crate::client::{Payload, Request, encode, parse};
use crate::error::Error;
use crate::output;
use crate::output::amounts::plain;

use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

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
    /// Place nothing of a queue until it is resumed; what runs goes on
    Pause {
        /// The queue
        queue: String,
        /// Why, for the others
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a paused queue go on
    Resume {
        /// The queue
        queue: String,
    },
    /// Set priority, part and limits of a queue; what is not given stays
    Set(Shape),
    /// Give a waiting experiment another place in its queue (in front: administrators, or while nobody else waits there)
    Reorder {
        /// Id, the start of one, or a name
        experiment: String,
        #[command(flatten)]
        place: Place,
    },
    /// Move a waiting experiment to another queue
    Move {
        /// Id, the start of one, or a name
        experiment: String,
        /// Where to
        queue: String,
    },
}

/// Where in the queue.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Before all others
    #[arg(long)]
    first: bool,
    /// After all others
    #[arg(long)]
    last: bool,
    /// Right before this one
    #[arg(long, value_name = "EXPERIMENT")]
    before: Option<String>,
    /// Where its priority and age put it
    #[arg(long)]
    ordinary: bool,
}

/// What a queue is to be.
#[derive(Debug, clap::Args)]
pub struct Shape {
    /// The queue
    queue: String,
    /// Queues of higher priority are served first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Its part among queues of the same priority (1 is ordinary)
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u32>,
    /// Most experiments at once (0: no limit)
    #[arg(long, value_name = "NUMBER")]
    max_running: Option<u64>,
    /// Most GPUs at once (0: no limit)
    #[arg(long, value_name = "NUMBER", value_parser = parse_gpus)]
    max_gpus: Option<u64>,
    /// Most cores at once (0: no limit)
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    max_cpus: Option<u64>,
    /// Most memory at once (0: no limit)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Most experiments of each user at once (0: no limit)
    #[arg(long, value_name = "NUMBER")]
    max_running_per_user: Option<u64>,
    /// Most GPUs of each user at once (0: no limit)
    #[arg(long, value_name = "NUMBER", value_parser = parse_gpus)]
    max_gpus_per_user: Option<u64>,
    /// No limits, but those that are given with this
    #[arg(long)]
    no_limits: bool,
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
        Command::Pause { queue, reason } => {
            let body = PauseRequest {
                reason: reason.clone(),
            };
            change(session, queue, "pause", &body).await
        }
        Command::Resume { queue } => {
            let path = format!("/queues/{}/resume", encode(queue));
            let request = || Request::new(Method::POST, path.clone(), Payload::empty());
            let bytes = session.change(request).await?;
            session.print(&bytes, "a queue", text)
        }
        Command::Set(shape) => {
            let known = known(session, &shape.queue).await?;
            let body = shape.request(known.as_ref());
            change(session, &shape.queue, "shape", &body).await
        }
        Command::Reorder { experiment, place } => {
            let path = format!("/experiments/{}/order", encode(experiment));
            let body = place.request();
            let bytes = session.change(|| Request::json(&path, &body)).await?;
            session.print(
                &bytes,
                "an experiment",
                |moved: &ExperimentSummary, _look| {
                    let (id, queue) = (plain(&moved.id), plain(&moved.queue));
                    format!("{id} has another place in queue {queue}: `muster why {id}` shows it")
                },
            )
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

impl Place {
    fn request(&self) -> OrderRequest {
        let place = match (self.first, self.last, self.ordinary) {
            (true, _, _) => Some("first"),
            (_, true, _) => Some("last"),
            (_, _, true) => Some("ordinary"),
            _ => None,
        };
        OrderRequest {
            place: place.map(str::to_owned),
            before: self.before.clone(),
        }
    }
}

impl Shape {
    /// Limits are changed as a whole: those that are not given stay as they are.
    fn request(&self, known: Option<&QueueView>) -> ShapeQueueRequest {
        let known = known.filter(|_| !self.no_limits);
        let (all, each) = known
            .map(|known| (known.limits, known.user_limits))
            .unwrap_or_default();
        let limits = LimitsView {
            experiments: self.max_running.unwrap_or(all.experiments),
            cpu_milli: self.max_cpus.unwrap_or(all.cpu_milli),
            memory_bytes: self.max_memory.unwrap_or(all.memory_bytes),
            gpu_milli: self.max_gpus.unwrap_or(all.gpu_milli),
        };
        let user_limits = LimitsView {
            experiments: self.max_running_per_user.unwrap_or(each.experiments),
            gpu_milli: self.max_gpus_per_user.unwrap_or(each.gpu_milli),
            ..each
        };
        ShapeQueueRequest {
            priority: self.priority,
            weight: self.weight,
            limits: self.says_limits().then_some(limits),
            user_limits: self.says_limits().then_some(user_limits),
        }
    }

    fn says_limits(&self) -> bool {
        let given = [
            self.max_running,
            self.max_gpus,
            self.max_cpus,
            self.max_memory,
            self.max_running_per_user,
            self.max_gpus_per_user,
        ];
        self.no_limits || given.iter().any(Option::is_some)
    }
}

/// The queue as it is.
async fn known(session: &Session, name: &str) -> Result<Option<QueueView>, Error> {
    let get = async || session.client.get("/queues").await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    let queues: Vec<QueueView> = parse(&bytes, "a list of queues")?;
    Ok(queues.into_iter().find(|queue| queue.name == name))
}

async fn change(
    session: &Session,
    queue: &str,
    verb: &str,
    body: &impl Serialize,
) -> Result<(), Error> {
    let path = format!("/queues/{}/{verb}", encode(queue));
    let bytes = session.change(|| Request::json(&path, body)).await?;
    session.print(&bytes, "a queue", text)
}

fn text(queue: &QueueView, _look: &output::Look) -> String {
    let name = plain(&queue.name);
    match &queue.paused {
        Some(word) => format!("queue {name} is paused by {}", plain(word)),
        None => format!(
            "queue {name} goes on: priority {}, weight {}, at once {}",
            queue.priority,
            queue.weight,
            output::queue_limits(queue)
        ),
    }
}
