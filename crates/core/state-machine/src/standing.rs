//! What people have decided about machines: their part in the cluster, and those that are out.

use serde::{Deserialize, Serialize};
use types::{NodeId, Timestamp};

use crate::records::NodeRecord;

/// Labels of machines that come and go by themselves: none of them votes while another can.
const FLEETING_LABELS: [&str; 3] = ["spot", "mobile", "sleeps"];
/// Labels of machines that somebody else owns: they vote after those of the house.
const CLOUD_LABELS: [&str; 2] = ["cloud", "instance"];

/// What people have decided about a member; without a word of theirs, the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStanding {
    /// It must vote, or must not.
    pub pin: Option<Pin>,
    /// It takes no new attempts and gives its vote back.
    pub drain: Option<Drain>,
    /// Labels that a person gave it, and those that a person took off (none), on top of its own configuration's.
    pub labels: Vec<(String, Option<String>)>,
    /// It takes attempts of one person only.
    pub reserved: Option<Reserved>,
}

/// A machine is one person's for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// The user, without a node.
    pub user: String,
    /// Until then.
    pub until: Timestamp,
    /// Who reserved it: user@node.
    pub by: String,
}

impl NodeStanding {
    /// The labels of a machine's configuration with what people have said about them.
    #[must_use]
    pub fn labels_over(&self, own: &[(String, String)]) -> Vec<(String, String)> {
        let is_said = |name: &String| self.labels.iter().any(|(said, _)| said == name);
        let kept = own.iter().filter(|(name, _)| !is_said(name)).cloned();
        let given = self.labels.iter().cloned();
        let given = given.filter_map(|(name, value)| Some((name, value?)));
        kept.chain(given).collect()
    }
}

/// A role that a person gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Which.
    pub role: PinnedRole,
    /// user@node.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// The roles that can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinnedRole {
    /// Votes before others.
    Voter,
    /// Neither votes nor stands by.
    Worker,
}

/// The wish that a machine gets empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// user@node.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why; may be empty.
    pub reason: String,
    /// What runs there is stopped and placed again elsewhere.
    pub evacuate: bool,
}

/// A machine that was taken out: its identity never comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Its last name.
    pub name: String,
    /// user@node.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
}

/// How far a machine can be counted on to stay, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Steadiness {
    /// A machine of the house.
    OnPrem,
    /// A rented machine.
    Cloud,
    /// Spot, mobile or sleeping.
    Fleeting,
}

impl Steadiness {
    /// By the labels of the machine.
    #[must_use]
    pub fn of(labels: &[(String, String)]) -> Self {
        if fleeting_label(labels).is_some() {
            Self::Fleeting
        } else if carries(labels, &CLOUD_LABELS).is_some() {
            Self::Cloud
        } else {
            Self::OnPrem
        }
    }
}

/// The label by which a machine comes and goes, if it has one.
#[must_use]
pub fn fleeting_label(labels: &[(String, String)]) -> Option<&str> {
    carries(labels, &FLEETING_LABELS)
}

fn carries<'a>(labels: &'a [(String, String)], any: &[&str]) -> Option<&'a str> {
    let mut names = labels.iter().map(|(name, _)| name.as_str());
    names.find(|name| any.contains(name))
}

/// A text that names no member, or several.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveNodeError {
    /// None.
    #[error("no node has the name, id or start of an id {text:?}: `muster nodes` lists them")]
    Unknown {
        /// What was asked for.
        text: String,
    },
    /// It was taken out.
    #[error("{name} was removed by {by} already: `muster nodes` lists those that are members")]
    Departed {
        /// Its last name.
        name: String,
        /// Who took it out.
        by: String,
    },
    /// Several are called so.
    #[error("{text:?} names several nodes: write one of the ids {}", candidates.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// At most eight of them.
        candidates: Vec<NodeId>,
    },
}

/// Finds a member by its name, its id, the end of its id as lists show it, or a unique start of either.
pub(crate) fn resolve<'a>(
    nodes: &[&'a NodeRecord],
    departed: impl Iterator<Item = (&'a NodeId, &'a Departure)>,
    text: &str,
) -> Result<NodeId, ResolveNodeError> {
    let exactly = |node: &NodeRecord| {
        let id = &node.node;
        node.facts.name == text || id.as_str() == text || id.short() == text
    };
    let begins = |node: &NodeRecord| {
        let id = &node.node;
        [&node.facts.name, id.as_str(), id.short()]
            .iter()
            .any(|word| word.starts_with(text))
    };
    let ids = |fits: &dyn Fn(&NodeRecord) -> bool| -> Vec<NodeId> {
        let fitting = nodes.iter().filter(|node| fits(node));
        fitting.map(|node| node.node.clone()).take(8).collect()
    };
    let unknown = || ResolveNodeError::Unknown {
        text: text.to_owned(),
    };
    if text.is_empty() {
        return Err(unknown());
    }
    let mut candidates = ids(&exactly);
    if candidates.is_empty() {
        candidates = ids(&begins);
    }
    if candidates.len() > 1 {
        let text = text.to_owned();
        return Err(ResolveNodeError::Ambiguous { text, candidates });
    }
    candidates.pop().ok_or_else(|| {
        let mut departed = departed;
        departed
            .find(|(id, was)| was.name == text || id.as_str() == text || id.short() == text)
            .map_or_else(unknown, |(_, was)| ResolveNodeError::Departed {
                name: was.name.clone(),
                by: was.by.clone(),
            })
    })
}
