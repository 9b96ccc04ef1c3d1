//! What each machine does at this moment, by its own word.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use types::{CauseKind, GpuShare, NodeId, Resources};

use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{PeerMessage, PeerReply};
use crate::view::{Answer, MachineSample, MachineView, MachinesView, NodeView};

/// Machines asked at the same time.
const ASKED_AT_ONCE: usize = 64;
/// How long a machine may take to answer; whoever looks does not wait longer for one that is gone.
const PATIENCE: Duration = Duration::from_secs(2);

impl Handle {
    /// Asks machines what they do: all, or those whose name or id is, or begins with, one of `wanted`.
    ///
    /// # Errors
    /// No majority answers (unless a stale answer will do), or no node is called so.
    pub async fn machines(
        &self,
        caller: &Caller,
        wanted: &[String],
        read: ReadOptions,
    ) -> Result<Answer<MachinesView>, ServiceError> {
        let nodes = self.nodes(caller, read).await?;
        let mut chosen = choose(nodes.body.nodes, wanted)?;
        chosen.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let asked = chosen.into_iter().map(|node| self.machine(node));
        Ok(Answer {
            index: nodes.index,
            age_ms: nodes.age_ms,
            body: MachinesView {
                machines: futures::stream::iter(asked)
                    .buffered(ASKED_AT_ONCE)
                    .collect()
                    .await,
                warnings: nodes.body.warnings,
            },
        })
    }

    /// What this machine's driver calls the GPUs of a booking, in its order; empty if it does not know all of them, as with
    /// GPUs that are only declared.
    #[must_use]
    pub fn gpu_names(&self, resources: &Resources) -> Vec<String> {
        let machine = self.inner.telemetry.machine();
        let name = |share: &GpuShare| {
            let place = usize::try_from(share.index.0).ok()?;
            Some(machine.gpus.get(place)?.uuid.clone())
        };
        let names: Option<_> = resources.gpus.iter().map(name).collect();
        names.unwrap_or_default()
    }

    /// A GPU of a booking that cannot be used any more, and why; none: all can, or no driver tells.
    #[must_use]
    pub fn broken_gpu(&self, resources: &Resources) -> Option<CauseKind> {
        let look = self.inner.telemetry.gpu_look();
        look.age?;
        let broken = |share: &GpuShare| {
            let place = usize::try_from(share.index.0).ok()?;
            let problem = look.gpus.get(place)?.problem.clone()?;
            let gpu = share.index.0;
            Some(CauseKind::GpuFailed { gpu, problem })
        };
        resources.gpus.iter().find_map(broken)
    }

    async fn machine(&self, node: NodeView) -> MachineView {
        let (sample, silent) = match self.sample_of(&node.id).await {
            Ok(sample) => (Some(sample), None),
            Err(why) => (None, Some(why)),
        };
        MachineView {
            node,
            sample,
            silent,
        }
    }

    async fn sample_of(&self, id: &str) -> Result<MachineSample, String> {
        let node: NodeId = id.parse().map_err(|_not_an_id| format!("{id} is no id"))?;
        if node == *self.node_id() {
            return Ok(self.inner.telemetry.machine().as_ref().clone());
        }
        match self.ask(&node, &PeerMessage::Machine, PATIENCE).await {
            Ok(PeerReply::Machine(sample)) => Ok(*sample),
            Ok(_other) => Err("it answered something else: is it of another version?".to_owned()),
            Err(error) => Err(error.message),
        }
    }
}

/// The nodes that are called by one of the words; all, if there are none.
fn choose(nodes: Vec<NodeView>, words: &[String]) -> Result<Vec<NodeView>, ServiceError> {
    if words.is_empty() {
        return Ok(nodes);
    }
    let mut chosen = BTreeSet::new();
    for word in words {
        let called = |fits: fn(&str, &str) -> bool| -> Vec<_> {
            let fitting = nodes.iter().enumerate();
            fitting
                .filter(|(_number, node)| fits(&node.name, word) || fits(&node.id, word))
                .map(|(number, _node)| number)
                .collect()
        };
        let mut numbers = called(|name, word| name == word);
        if numbers.is_empty() {
            numbers = called(|name, word| name.starts_with(word));
        }
        if numbers.is_empty() {
            let message = format!("no node is called {word}");
            let error = ServiceError::new(ErrorKind::NotFound, "no-such-node", message);
            return Err(error.hint("`muster nodes` lists them"));
        }
        chosen.extend(numbers);
    }
    let nodes = nodes.into_iter().enumerate();
    Ok(nodes
        .filter(|(number, _node)| chosen.contains(number))
        .map(|(_number, node)| node)
        .collect())
}
