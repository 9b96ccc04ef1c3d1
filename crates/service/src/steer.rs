//! What people do with what waits: held, reordered, of another priority; queues paused, resumed and limited.

use serde::{Deserialize, Serialize};
use state_machine::{
    Command, HoldExperiment, Limits, LinePlace, OrderExperiment, PauseQueue, ReleaseExperiment,
    SetPriority, ShapeQueue, WeighUser,
};
use types::{Author, ExperimentId, QueueName, RequestId, codec};

use crate::author::Caller;
use crate::call::{Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::members::line;
use crate::submit::{invalid, unexpected};
use crate::view::{
    Answer, ExperimentSummary, HoldRequest, LimitsView, OrderRequest, PauseRequest,
    PriorityRequest, QueueView, ShapeQueueRequest,
};

/// Most bytes of what people say of queues, users and machines, 32 long labels among them: more is a slip, and must not get
/// into the log.
const MAX_WORD_BYTES: usize = 16 << 10;

/// What is to become of a waiting experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Steer {
    Hold(HoldRequest),
    Release,
    Order(OrderRequest),
    Priority(PriorityRequest),
}

/// What is to become of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum QueueChange {
    Pause(PauseRequest),
    Resume,
    Shape(ShapeQueueRequest),
}

impl Handle {
    /// Keeps a waiting experiment from being placed.
    ///
    /// # Errors
    /// It is unknown, does not wait, or is somebody else's.
    pub async fn hold(
        &self,
        caller: &Caller,
        id: &str,
        request: HoldRequest,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.steer(caller, id, Steer::Hold(request)).await
    }

    /// Lets a held experiment be placed again.
    ///
    /// # Errors
    /// It is unknown, does not wait, or is somebody else's.
    pub async fn release(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.steer(caller, id, Steer::Release).await
    }

    /// Gives a waiting experiment another place in its queue.
    ///
    /// # Errors
    /// It is unknown, does not wait, is somebody else's, or there is no such place.
    pub async fn order(
        &self,
        caller: &Caller,
        id: &str,
        request: OrderRequest,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.steer(caller, id, Steer::Order(request)).await
    }

    /// Gives a waiting experiment another priority.
    ///
    /// # Errors
    /// It is unknown, does not wait, is somebody else's, or the priority takes an administrator.
    pub async fn set_priority(
        &self,
        caller: &Caller,
        id: &str,
        request: PriorityRequest,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.steer(caller, id, Steer::Priority(request)).await
    }

    async fn steer(
        &self,
        caller: &Caller,
        id: &str,
        steer: Steer,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let request = Request::Steer(id.to_owned(), steer);
        match self.call(caller, request, None).await? {
            Reply::Summary(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_steer(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
        steer: Steer,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.freshen(crate::ReadOptions::default()).await?;
        let id = self.resolve(text)?;
        self.refuse_foreign(author, id)?;
        let command = self.steering(id, steer)?;
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.summary_at(id, index)
    }

    fn steering(&self, experiment: ExperimentId, steer: Steer) -> Result<Command, ServiceError> {
        Ok(match steer {
            Steer::Hold(request) => Command::HoldExperiment(HoldExperiment {
                experiment,
                reason: line(request.reason)?,
            }),
            Steer::Release => Command::ReleaseExperiment(ReleaseExperiment { experiment }),
            Steer::Order(request) => Command::OrderExperiment(OrderExperiment {
                experiment,
                place: self.place_of(&request)?,
            }),
            Steer::Priority(request) => Command::SetPriority(SetPriority {
                experiment,
                priority: request.priority,
            }),
        })
    }

    fn place_of(&self, request: &OrderRequest) -> Result<LinePlace, ServiceError> {
        match (request.place.as_deref(), request.before.as_deref()) {
            (Some("first"), None) => Ok(LinePlace::First),
            (Some("last"), None) => Ok(LinePlace::Last),
            (Some("ordinary"), None) => Ok(LinePlace::Ordinary),
            (None, Some(other)) => self.resolve(other).map(LinePlace::Before),
            _ => Err(invalid(
                "say where: place is first, last or ordinary, or before names an experiment",
            )),
        }
    }

    /// Keeps all of a queue from being placed.
    ///
    /// # Errors
    /// The caller is no admin, no such queue, or no majority answers.
    pub async fn pause_queue(
        &self,
        caller: &Caller,
        queue: &str,
        request: PauseRequest,
    ) -> Result<Answer<QueueView>, ServiceError> {
        self.change_queue(caller, queue, QueueChange::Pause(request))
            .await
    }

    /// Lets a paused queue go on.
    ///
    /// # Errors
    /// The caller is no admin, no such queue, or no majority answers.
    pub async fn resume_queue(
        &self,
        caller: &Caller,
        queue: &str,
    ) -> Result<Answer<QueueView>, ServiceError> {
        self.change_queue(caller, queue, QueueChange::Resume).await
    }

    /// Sets priority, part and limits of a queue.
    ///
    /// # Errors
    /// The caller is no admin, no such queue, values that make no sense, or no majority answers.
    pub async fn shape_queue(
        &self,
        caller: &Caller,
        queue: &str,
        request: ShapeQueueRequest,
    ) -> Result<Answer<QueueView>, ServiceError> {
        self.change_queue(caller, queue, QueueChange::Shape(request))
            .await
    }

    async fn change_queue(
        &self,
        caller: &Caller,
        queue: &str,
        change: QueueChange,
    ) -> Result<Answer<QueueView>, ServiceError> {
        let request = Request::ChangeQueue(queue.to_owned(), change);
        match self.call(caller, request, None).await? {
            Reply::Queue(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_change_queue(
        &self,
        author: &Author,
        request_id: RequestId,
        queue: &str,
        change: QueueChange,
    ) -> Result<Answer<QueueView>, ServiceError> {
        let queue: QueueName = queue
            .parse()
            .map_err(|error: types::IdError| invalid(&error.to_string()))?;
        if self.inner.consensus.state().queue(&queue).is_none() {
            let message = format!("there is no queue {queue}");
            let error = ServiceError::new(ErrorKind::NotFound, "unknown-queue", message);
            return Err(error.hint("`muster queue ls` lists them, `muster queue create` makes one"));
        }
        let command = match change {
            QueueChange::Pause(request) => Command::PauseQueue(PauseQueue {
                queue: queue.clone(),
                paused: true,
                reason: line(request.reason)?,
            }),
            QueueChange::Resume => Command::PauseQueue(PauseQueue {
                queue: queue.clone(),
                paused: false,
                reason: String::new(),
            }),
            QueueChange::Shape(request) => Command::ShapeQueue(ShapeQueue {
                queue: queue.clone(),
                priority: request.priority,
                weight: request.weight,
                limits: request.limits.map(limits_of),
                user_limits: request.user_limits.map(limits_of),
            }),
        };
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.queue_at(&queue, index)
    }

    /// Gives a user another part among those of a queue.
    ///
    /// # Errors
    /// The caller is no admin, the weight makes no sense, or no majority answers.
    pub async fn weigh_user(
        &self,
        caller: &Caller,
        user: &str,
        weight: u32,
    ) -> Result<(), ServiceError> {
        let request = Request::WeighUser(user.to_owned(), weight);
        match self.call(caller, request, None).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_weigh_user(
        &self,
        author: &Author,
        request_id: RequestId,
        user: String,
        weight: u32,
    ) -> Result<(), ServiceError> {
        let command = small(Command::WeighUser(WeighUser { user, weight }))?;
        self.propose(author, Some(request_id), command)
            .await
            .map(drop)
    }
}

/// The command, if it is of a size that the log takes; what it says is judged when it is applied.
pub(crate) fn small(command: Command) -> Result<Command, ServiceError> {
    let bytes = codec::encode(&command).len();
    if bytes > MAX_WORD_BYTES {
        return Err(invalid(&format!(
            "names and values take {bytes} bytes, more than {MAX_WORD_BYTES}: shorten them"
        )));
    }
    Ok(command)
}

fn limits_of(view: LimitsView) -> Limits {
    Limits {
        experiments: view.experiments,
        cpu_milli: view.cpu_milli,
        memory_bytes: view.memory_bytes,
        gpu_milli: view.gpu_milli,
    }
}

pub(crate) fn limits_view(limits: Limits) -> LimitsView {
    LimitsView {
        experiments: limits.experiments,
        cpu_milli: limits.cpu_milli,
        memory_bytes: limits.memory_bytes,
        gpu_milli: limits.gpu_milli,
    }
}
