//! The wire model: what every surface shows, as JSON. `rest` re-exports it as its own model.
//!
//! Times are milliseconds since the Unix epoch (UTC), sizes are bytes, shares are thousandths.

mod audit;
mod compare;
mod experiment;
mod group;
mod log;
mod machine;
mod node;
mod outputs;
mod request;
mod samples;
mod series;
mod steer;
mod token;

pub use audit::{Attestation, LedgerFilter, LedgerHead, LedgerPage, LedgerRecord, SilentReplica};
pub use compare::{CompareView, ComparedView, FileDifference, SourceDifference};
pub use experiment::{
    AttemptView, CauseView, ExperimentDetail, ExperimentFilter, ExperimentList, ExperimentSummary,
    FindingView, LedgerEntryView, RankView, WhyNodeView, WhyView,
};
pub use group::{
    CloneRequest, GroupMemberView, GroupReply, GroupRequest, GroupSummary, GroupView, MetricView,
    OriginView, RerunRequest, StateCount,
};
pub use log::LogItem;
pub use machine::{
    DiskDetail, GpuDetail, GpuProcess, HostDetail, InterfaceDetail, MachineSample, MachineView,
    MachinesView, Pressure, Temperature,
};
pub use node::{
    ClusterView, DrainRequest, GpuView, NodeChangeView, NodeRefView, NodeView, NodesView,
    PinRequest, QueueView, RemoveNodeRequest,
};
pub use outputs::{ArtifactAccepted, KeptView, OutputView, OutputsView};
pub use request::{
    BlobHashes, CreateJoinTokenRequest, CreateQueueRequest, CreateUserTokenRequest,
    EnvironmentView, MoveRequest, ResourcesView, SourceView, SubmitReply, SubmitRequest,
    TokenCreated,
};
pub use samples::{RequestedView, SamplesView, UsagePoint, UsageSummary};
pub use series::{
    MetricSummary, MetricsView, PointInput, PointsAccepted, PointsRequest, PointsView, SeriesView,
};
pub use steer::{
    HoldRequest, LabelRequest, LimitsView, OrderRequest, PauseRequest, PriorityRequest,
    ReserveRequest, ShapeQueueRequest, WeightRequest,
};
pub use token::{CallerView, JoinTokenView, UserTokenView};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An answer of the state with the log index that it reflects. A client that sends the highest index it saw
/// back (`X-Muster-Index`) never goes back in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// Log index.
    pub index: u64,
    /// Milliseconds since this state was known to be current; 0 for a linearizable read.
    pub age_ms: u64,
    /// The answer.
    pub body: T,
}

/// An error, as every surface shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorView {
    /// Stable word.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}
