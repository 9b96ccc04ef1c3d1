//! The words of muster as types: ids, resources, experiments, reports, causes, and the one codec
//! for everything that is stored or sent.
//!
//! Nothing here does I/O or reads a clock. Types that are stored or sent change only by appending a
//! new version (see [`codec`]); golden-byte tests in `tests/golden.rs` hold them still.

mod author;
mod backup;
mod cause;
pub mod codec;
mod environment;
mod experiment;
mod group;
mod ids;
mod join;
mod outputs;
mod parameters;
mod placement;
mod points;
mod records;
mod report;
mod resources;
mod sample;
mod source_tree;
mod stop_rule;
mod time;

pub use author::{Author, AuthorProof, Role};
pub use backup::{
    BackupError, BackupHeader, BackupItem, BackupPart, BackupReader, BackupSummary, BackupWriter,
    MAX_BACKUP_DATA_BYTES,
};
pub use cause::{Cause, CauseKind, Finding};
pub use environment::{
    Environment, EnvironmentFile, EnvironmentKind, EnvironmentRef, EnvironmentSpec,
    EnvironmentSpecV1, python_fits,
};
pub use experiment::{ExperimentSpec, Overuse, ParseOveruseError, Policy, SourceTreeRef};
pub use group::{GroupId, Origin};
pub use ids::{
    AttemptToken, BlobHash, ClusterId, ExperimentId, IdError, Incarnation, LogIndex, NodeId,
    QueueName, RequestId, TokenId,
};
pub use join::{
    JoinProof, JoinReply, JoinRequest, JoinTokenError, JoinTokenText, Member, MemberList,
    SignedMemberList, rejoin_bytes,
};
pub use outputs::{KeptOutputs, Outputs, OutputsError};
pub use parameters::{
    ParameterError, check_parameters, fill_parameters, filled_length, parameter_places,
    parameter_variable,
};
pub use placement::{RankPlacement, WantedAttempt, WantedSet};
pub use points::MetricPoint;
pub use records::{
    ConsoleStream, FrameError, MAX_FRAME_BYTES, Record, RecordBody, SegmentRef, SegmentSummary,
    decode_frames, encode_frame,
};
pub use report::{GpuReport, NodeFacts, NodeReport};
pub use resources::{
    Bytes, GpuIndex, GpuShare, ParseResourceError, ResourceRequest, Resources, accepts_model,
    parse_bytes, parse_cpus, parse_gpus,
};
pub use sample::{AttemptSample, DiskUse, GpuUse, NetworkOf, NetworkUse};
pub use source_tree::{
    Chunk, GitFacts, MAX_TREE_ENTRIES, SourceTree, TreeEntry, TreeEntryKind, TreePathError,
    link_stays_inside, validate_tree_path,
};
pub use stop_rule::{Comparison, StopRule, StopRuleError};
pub use time::{DurationMs, ParseDurationError, Timestamp, parse_duration};
