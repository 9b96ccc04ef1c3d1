//! What a provider is asked and what it answers: one JSON object per line, at most 1 MiB.
//!
//! `{"version":1,"id":7,"order":{"incarnation":1,"log_index":42},"call":{"launch":{…}}}` is answered by
//! `{"version":1,"id":7,"outcome":{"ok":{"launched":{…}}}}`, in any order. Unknown fields are ignored.

use std::fmt;

use serde::{Deserialize, Serialize};
use types::{Incarnation, LogIndex, Timestamp};

/// Version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest line: a list of a thousand instances with room to spare.
pub(crate) const MAX_LINE_BYTES: usize = 1 << 20;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`] of the asker.
    pub version: u32,
    /// Number of the question; the answer repeats it.
    pub id: u64,
    /// Who decided it; none for questions that change nothing.
    pub order: Option<Order>,
    /// The question.
    pub call: Call,
}

/// The point in the cluster's history that an order was decided at. Ordered: a later leader's is higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// History of the cluster.
    pub incarnation: Incarnation,
    /// State that the leader saw when it gave the order; given again, it carries the newer one.
    pub log_index: LogIndex,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incarnation.0, self.log_index)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// What machines could be launched, at what price?
    Offers,
    /// Start a machine; the same client token starts no second one.
    Launch(Launch),
    /// Stop a machine for good; one that has ended stays ended.
    Terminate {
        /// The provider's id of it.
        instance: String,
    },
    /// All instances that this provider launched, ended ones for a while.
    List,
}

impl Call {
    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offers => "offers",
            Self::Launch(_) => "launch",
            Self::Terminate { .. } => "terminate",
            Self::List => "list",
        }
    }
}

/// The machine to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Names the intent: a repeat gets the same instance. 1 to 64 of `a-z`, `0-9` and `-`.
    pub client_token: String,
    /// Name of the offer.
    pub offer: String,
    /// Arguments of the `muster` that the machine runs when it has booted.
    pub arguments: Vec<String>,
    /// Environment variables of it.
    pub variables: Vec<(String, String)>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// [`PROTOCOL_VERSION`] of the answerer.
    pub version: u32,
    /// Number of the question.
    pub id: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// Done, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok(Reply),
    /// Not done.
    Failed(Failure),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `offers`.
    Offers(Vec<Offer>),
    /// To `launch`.
    Launched(Instance),
    /// To `terminate`: the end has begun; `list` tells when it is over.
    Terminated,
    /// To `list`.
    Instances(Vec<Instance>),
}

/// A kind of machine that can be launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The provider's name of it.
    pub name: String,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// GPUs.
    pub gpus: Vec<OfferedGpu>,
    /// Millionths of a dollar per hour.
    pub price_microdollars_per_hour: u64,
    /// The provider may take it back.
    pub spot: bool,
    /// Failure domain, empty if there is none.
    pub zone: String,
}

/// A GPU of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedGpu {
    /// Model name.
    pub model: String,
    /// Bytes of memory.
    pub vram_bytes: u64,
}

/// A launched machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The provider's id of it.
    pub id: String,
    /// Token that it was launched with.
    pub client_token: String,
    /// Offer that it was launched from.
    pub offer: String,
    /// What it is doing.
    pub state: InstanceState,
    /// Addresses to dial it at, empty until known.
    pub addresses: Vec<String>,
    /// When it was launched, by the provider's clock.
    pub launched_at: Timestamp,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Promised, not there yet.
    Starting,
    /// There.
    Running,
    /// Going, still costs.
    Stopping,
    /// Gone for good.
    Ended,
}

/// Why a provider did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// In a person's words.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The provider has no such machine free: another offer or a later try may work.
    NoCapacity,
    /// A limit of the account: a person must raise it.
    OverQuota,
    /// The credentials do not allow it: a person must act.
    Unauthorized,
    /// The question is wrong; asking again does not help.
    Invalid,
    /// No such instance.
    Unknown,
    /// Anything that may pass: ask again later.
    Temporary,
}
