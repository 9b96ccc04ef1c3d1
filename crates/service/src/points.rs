//! Points of metrics that come by requests: from people, for their experiments, and from the job itself.

use std::time::Duration;

use state_machine::{Attempt, Experiment};
use types::{AttemptToken, MetricPoint, NodeId, Role, WantedAttempt};

use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{BulkMessage, BulkReply};
use crate::view::{PointInput, PointsAccepted, PointsRequest};

/// Points of one request: a second of a fast training, and well within a JSON body.
const MAX_POINTS: usize = 5_000;
/// Time for the node that runs it to hand them to its holder.
const PATIENCE: Duration = Duration::from_secs(15);
/// What the token of a job begins with; it names the attempt and its rank, and ends with a secret.
const PREFIX: &str = "mj1.";

/// A job that has proven to be one of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    token: AttemptToken,
    rank: u32,
}

impl Job {
    pub(crate) fn token(&self) -> &AttemptToken {
        &self.token
    }

    /// A job reports of its own experiment only.
    pub(crate) fn check(&self, id: &str) -> Result<(), ServiceError> {
        let own = self.token.experiment.to_string();
        if id == own || id == "self" {
            return Ok(());
        }
        let message = format!("this token is of {own}, not of {id}");
        let error = ServiceError::new(ErrorKind::Forbidden, "not-allowed", message);
        Err(error.hint("a job reports of its own experiment: MUSTER_EXPERIMENT_ID, or `self`"))
    }
}

impl Handle {
    /// Tells where this node's interface is, if it has one over TCP: jobs find it in their environment. Once, at the start.
    pub fn set_api_url(&self, url: Option<String>) {
        let told = url.map(|url| self.inner.api_url.set(url));
        if told.is_some_and(|told| told.is_err()) {
            tracing::debug!("the address of the interface was told twice");
        }
    }

    /// What a job of this node needs to report by requests, unless it was given others.
    #[must_use]
    pub fn report_variables(&self, wanted: &WantedAttempt) -> Vec<(String, String)> {
        let Some(url) = self.inner.api_url.get() else {
            return Vec::new();
        };
        let secret: [u8; 16] = rand::random();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let (name, rank) = (wanted.token.directory_name(), wanted.rank);
        let mut variables = vec![
            ("MUSTER_API".to_owned(), format!("{url}/api/v1")),
            (
                JOB_TOKEN.to_owned(),
                format!("{PREFIX}{name}.{rank}.{secret}"),
            ),
        ];
        // What a person set stays: the job may be a client of another node, or of another cluster.
        let own = &wanted.spec.variables;
        variables.retain(|(name, _)| own.iter().all(|(set, _)| set != name));
        variables
    }

    /// Whether a bearer token is that of a job, right or wrong.
    #[must_use]
    pub fn is_of_job(bearer: &str) -> bool {
        bearer.starts_with(PREFIX)
    }

    /// The job that has this token; it runs on this node, or none does.
    ///
    /// # Errors
    /// No attempt that runs here has it.
    pub async fn job_of(&self, bearer: &str) -> Result<Job, ServiceError> {
        let refused = || {
            let message = "no experiment that runs on this node has this token";
            let error = ServiceError::new(ErrorKind::Unauthenticated, "bad-token", message);
            error.hint("a job finds its own in MUSTER_TOKEN, and the node to talk to in MUSTER_API")
        };
        let name = bearer
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('.').next());
        let running = self.inner.executor.running();
        let mut running = running.into_iter();
        let found = running.find(|one| Some(one.token.directory_name().as_str()) == name);
        let status = found.ok_or_else(refused)?;
        let known = self.inner.executor.variable(&status.token, JOB_TOKEN).await;
        let known = known.map_err(|_unreadable| refused())?;
        // By their hashes: how long a comparison takes says nothing of them.
        let is_same = known
            .is_some_and(|known| blake3::hash(known.as_bytes()) == blake3::hash(bearer.as_bytes()));
        let (token, rank) = (status.token, status.rank);
        is_same.then_some(Job { token, rank }).ok_or_else(refused)
    }

    /// Adds points that a job reports of itself.
    ///
    /// # Errors
    /// They are of another experiment, make no sense, or cannot be kept now.
    pub async fn add_points_of_job(
        &self,
        job: &Job,
        id: &str,
        request: PointsRequest,
    ) -> Result<PointsAccepted, ServiceError> {
        job.check(id)?;
        let own = job.token.experiment.to_string();
        let points = checked(request.points)?;
        self.add_points_here(&job.token, &points).await?;
        Ok(accepted(own, job.token.attempt, job.rank, points.len()))
    }

    /// Adds points to the attempt of an experiment that runs now, wherever that is.
    ///
    /// # Errors
    /// It does not run, is somebody else's, or its node does not answer; the points make no sense.
    pub async fn add_points(
        &self,
        caller: &Caller,
        id: &str,
        request: PointsRequest,
    ) -> Result<PointsAccepted, ServiceError> {
        let points = checked(request.points)?;
        let experiment = self.record(caller, id, ReadOptions::default()).await?;
        let rank = request.rank.unwrap_or(0);
        let (attempt, node) = place_of(caller, &experiment, rank)?;
        let id = experiment.id;
        let token = attempt.token;
        let accepted = accepted(id.to_string(), token.attempt, rank, points.len());
        if node == self.node_id() {
            self.add_points_here(&token, &points).await?;
            return Ok(accepted);
        }
        let message = BulkMessage::Points { token, points };
        match self.ask_bulk(node, &message, PATIENCE).await? {
            BulkReply::Done => Ok(accepted),
            other => {
                let message = format!("{node} answered {other:?}");
                Err(ServiceError::new(ErrorKind::Internal, "points", message))
            }
        }
    }

    /// For the node at which they came in.
    pub(crate) async fn answer_points(
        &self,
        token: &AttemptToken,
        points: &[MetricPoint],
    ) -> Result<BulkReply, String> {
        let added = self.add_points_here(token, points).await;
        added
            .map(|()| BulkReply::Done)
            .map_err(|error| error.message)
    }

    async fn add_points_here(
        &self,
        token: &AttemptToken,
        points: &[MetricPoint],
    ) -> Result<(), ServiceError> {
        let added = self.inner.executor.add_points(token, points).await;
        added.map_err(|error| {
            let (kind, code) = match error {
                executor::Error::HasEnded { .. } | executor::Error::UnknownAttempt { .. } => {
                    (ErrorKind::Conflict, "not-running")
                }
                executor::Error::NotTaken { .. } => (ErrorKind::Unavailable, "slow-disk"),
                _ => (ErrorKind::Internal, "points"),
            };
            ServiceError::new(kind, code, error.to_string())
        })
    }
}

/// The variable with a job's own token.
const JOB_TOKEN: &str = "MUSTER_TOKEN";

/// The attempt of an experiment that runs now and where a rank of it is, for those who may report of it.
pub(crate) fn place_of<'a>(
    caller: &Caller,
    experiment: &'a Experiment,
    rank: u32,
) -> Result<(&'a Attempt, &'a NodeId), ServiceError> {
    let (id, owner) = (experiment.id, &experiment.author.user);
    if caller.role < Role::Member || (caller.role < Role::Admin && *owner != caller.user) {
        let message = format!("{id} is of {owner}: only they and administrators report for it");
        let error = ServiceError::new(ErrorKind::Forbidden, "not-allowed", message);
        return Err(error.hint("ask its owner or an administrator"));
    }
    let attempt = experiment.current_attempt();
    let place = attempt.and_then(|attempt| Some((attempt, node_of(attempt, rank)?)));
    place.ok_or_else(|| {
        let message = format!("rank {rank} of {id} does not run now");
        let error = ServiceError::new(ErrorKind::Conflict, "not-running", message);
        error.hint(format!("`muster why {id}` says where it stands"))
    })
}

fn node_of(attempt: &Attempt, rank: u32) -> Option<&NodeId> {
    let rank = attempt.rank(rank).filter(|rank| !rank.ended)?;
    Some(&rank.placement.node)
}

fn accepted(experiment: String, attempt: u32, rank: u32, points: usize) -> PointsAccepted {
    PointsAccepted {
        experiment,
        attempt,
        rank,
        points: points as u64,
    }
}

fn checked(points: Vec<PointInput>) -> Result<Vec<MetricPoint>, ServiceError> {
    if points.is_empty() || points.len() > MAX_POINTS {
        let message = format!("{} points in one request", points.len());
        return Err(ServiceError::new(ErrorKind::Invalid, "bad-points", message)
            .hint(format!("send 1 to {MAX_POINTS} at a time")));
    }
    let point = |point: PointInput| {
        if !MetricPoint::is_name(&point.name) {
            let most = MetricPoint::MAX_NAME_BYTES;
            let message = format!("{:?} cannot name a metric", point.name);
            return Err(ServiceError::new(ErrorKind::Invalid, "bad-name", message)
                .hint(format!("1 to {most} bytes without control characters")));
        }
        Ok(MetricPoint {
            name: point.name,
            step: point.step,
            value_bits: point.value.to_bits(),
        })
    };
    points.into_iter().map(point).collect()
}
