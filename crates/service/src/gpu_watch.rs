//! A node's own watch over its GPUs: what each attempt uses goes into its records, who takes more than it was given is
//! named and, by policy, ended, and what a failed GPU carried is given up. It needs no leader to act.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use agent::{GpuAction, GpuLook, GpuPart, GpuWatch};
use executor::{BookedGpu, GpuTenant, StopReason};
use state_machine::{AttemptReport, Command, ReportAttempt, VramOveruse};
use telemetry::{AttemptGpus, GpuHealth, OwnTree};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use types::{AttemptToken, DurationMs, GpuIndex, Overuse};

use crate::error::ErrorKind;
use crate::handle::{Handle, now};

/// As often as the GPUs are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Older figures of a driver that hangs are told to nobody.
const OLD: Duration = Duration::from_secs(3);
/// Reports that wait for this loop to hear that they arrived; then the tasks that bring them wait.
const TOLD_QUEUE: usize = 64;
/// What is said of a GPU that no driver lists.
pub(crate) const VANISHED: &str = "the driver does not know this GPU any more";

/// A report that arrived, or did not.
type Told = (AttemptToken, VramOveruse, bool);

/// The loop's memory.
struct Watching {
    watch: GpuWatch,
    /// Reports under way: a slow one is not begun twice.
    telling: BTreeSet<(AttemptToken, GpuIndex)>,
    told: mpsc::Sender<Told>,
}

impl Handle {
    /// Tells telemetry whose processes are whose, the holders what theirs use, and sees that nobody takes more memory
    /// than it was given without being named.
    pub async fn watch_gpus(&self) -> Infallible {
        let (told, mut heard) = mpsc::channel(TOLD_QUEUE);
        let mut watching = Watching {
            watch: GpuWatch::default(),
            telling: BTreeSet::new(),
            told,
        };
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                Some((token, overuse, is_known)) = heard.recv() => {
                    watching.telling.remove(&(token, overuse.gpu));
                    if is_known {
                        watching.watch.told(token, &overuse);
                    }
                    continue;
                }
            }
            let Some(look) = self.look_at_gpus() else {
                continue;
            };
            for action in watching.watch.step(&look) {
                self.act_on_gpus(action, &mut watching);
            }
        }
    }

    /// What the attempts use of the GPUs now; none while nothing is known.
    fn look_at_gpus(&self) -> Option<GpuLook> {
        let executor = self.executor();
        let telemetry = &self.inner.telemetry;
        let trees = executor.trees();
        let own = trees.iter().map(|(token, root_pid)| OwnTree {
            attempt: token.to_string(),
            root_pid: *root_pid,
        });
        telemetry.set_trees(own.collect());
        let look = telemetry.gpu_look();
        if look.age.is_none_or(|age| age > OLD) {
            return None;
        }
        let mut parts = Vec::new();
        for (token, _root_pid) in trees {
            let name = token.to_string();
            let used = look.attempts.iter().find(|used| used.attempt == name);
            if let Some(used) = used {
                let (vram, percent) = (used.vram_bytes, used.utilisation_percent);
                if let Err(error) = executor.tell_gpus(&token, vram, percent) {
                    tracing::debug!(%token, %error, "its use of the GPUs is not told: it has ended");
                }
            }
            let Some(tenant) = executor.gpu_tenant(&token) else {
                continue;
            };
            let mut own = parts_of(token, &tenant, used, &look.gpus);
            for part in &mut own {
                part.policy = stricter(part.policy, self.inner.config.vram_overuse);
            }
            parts.extend(own);
        }
        Some(GpuLook {
            number: look.number,
            at: now(),
            parts,
        })
    }

    fn act_on_gpus(&self, action: GpuAction, watching: &mut Watching) {
        let (token, reason) = match action {
            GpuAction::Tell {
                token,
                rank,
                overuse,
            } => {
                if watching.telling.insert((token, overuse.gpu)) {
                    self.tell_overuse((token, rank), overuse, watching.told.clone());
                }
                return;
            }
            GpuAction::Stop { token, overuse } => {
                let figures = overuse.figures();
                tracing::warn!(%token, figures, "attempt holds more GPU memory than it was given and is ended");
                (token, StopReason::VramOveruse { figures })
            }
            GpuAction::GiveUp {
                token,
                gpu,
                problem,
            } => {
                tracing::warn!(%token, gpu = gpu.0, problem, "attempt is ended: its GPU has failed");
                let gpu = gpu.0;
                (token, StopReason::GpuFailed { gpu, problem })
            }
        };
        let executor = self.executor().clone();
        // A holder that hangs must not hold up the watch over the others.
        tokio::spawn(async move {
            let tenant = executor.gpu_tenant(&token);
            let grace = tenant.map_or_else(DurationMs::default, |tenant| tenant.terms.stop_grace);
            if let Err(error) = executor.stop(&token, reason, grace).await {
                tracing::debug!(%token, %error, "nothing to end: it has ended");
            }
        });
    }

    fn tell_overuse(
        &self,
        (token, rank): (AttemptToken, u32),
        overuse: VramOveruse,
        told: mpsc::Sender<Told>,
    ) {
        let handle = self.clone();
        tokio::spawn(async move {
            let command = Command::ReportAttempt(Box::new(ReportAttempt {
                token,
                node: handle.node_id().clone(),
                rank,
                report: AttemptReport::VramOveruse(overuse.clone()),
            }));
            let is_known = match handle.propose_as_node(command).await {
                Ok(_) => {
                    let figures = overuse.figures();
                    let is_over = overuse.until.is_some();
                    tracing::warn!(%token, figures, is_over, "over-use of GPU memory was reported");
                    true
                }
                Err(error) if error.kind == ErrorKind::Unavailable => false,
                Err(error) => {
                    tracing::debug!(%token, %error, "over-use of GPU memory is not taken down");
                    true
                }
            };
            // Closed: the loop is over, and the next node process looks again.
            drop(told.send((token, overuse, is_known)).await);
        });
    }
}

/// An attempt on each GPU that it was given, or that it uses without.
fn parts_of(
    token: AttemptToken,
    tenant: &GpuTenant,
    used: Option<&AttemptGpus>,
    gpus: &[GpuHealth],
) -> Vec<GpuPart> {
    let (rank, terms) = (tenant.rank, &tenant.terms);
    let used = |place: u32| used.and_then(|used| used.vram_by_gpu.get(&place).copied());
    let given = terms.gpus.iter().map(|gpu| GpuPart {
        token,
        rank,
        gpu: gpu.share.index,
        granted_milli: gpu.share.milli,
        granted_bytes: gpu.share.vram_bytes,
        used_bytes: place_of(gpu, gpus).and_then(used).unwrap_or(0),
        problem: problem_of(gpu, gpus),
        policy: terms.overuse,
        is_adopted: tenant.is_adopted,
    });
    let mut parts: Vec<_> = given.collect();
    let places: BTreeSet<_> = terms
        .gpus
        .iter()
        .flat_map(|gpu| [Some(gpu.share.index.0), place_of(gpu, gpus)])
        .flatten()
        .collect();
    for place in (0..).take(gpus.len()) {
        if let Some(used_bytes) = used(place).filter(|_| !places.contains(&place)) {
            parts.push(GpuPart {
                token,
                rank,
                gpu: GpuIndex(place),
                granted_milli: 0,
                granted_bytes: 0,
                used_bytes,
                problem: None,
                policy: terms.overuse,
                is_adopted: tenant.is_adopted,
            });
        }
    }
    parts
}

/// Where it is in the list: by its name, since a node process that started anew may count otherwise.
fn place_of(gpu: &BookedGpu, gpus: &[GpuHealth]) -> Option<u32> {
    let Some(uuid) = &gpu.uuid else {
        return Some(gpu.share.index.0);
    };
    let place = gpus.iter().position(|one| one.uuid == *uuid)?;
    u32::try_from(place).ok() // No list is that long.
}

/// Why it cannot be used any more. Of a GPU that is only declared nobody says.
fn problem_of(gpu: &BookedGpu, gpus: &[GpuHealth]) -> Option<String> {
    let uuid = gpu.uuid.as_ref()?;
    match gpus.iter().find(|one| one.uuid == *uuid) {
        Some(known) => known.problem.clone(),
        None => Some(VANISHED.to_owned()),
    }
}

/// A node may be stricter than the experiment, and the other way round.
fn stricter(one: Overuse, other: Overuse) -> Overuse {
    match (one, other) {
        (Overuse::Warn, Overuse::Warn) => Overuse::Warn,
        (Overuse::Stop, _) | (_, Overuse::Stop) => Overuse::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor::GpuTerms;
    use types::{ExperimentId, GpuShare, Incarnation, LogIndex};

    const GIB: u64 = 1 << 30;

    fn health(uuid: &str, problem: Option<&str>) -> GpuHealth {
        GpuHealth {
            uuid: uuid.to_owned(),
            model: "A10G".to_owned(),
            problem: problem.map(ToOwned::to_owned),
        }
    }

    fn booked(index: u32, uuid: Option<&str>) -> BookedGpu {
        BookedGpu {
            share: GpuShare {
                index: GpuIndex(index),
                milli: 500,
                vram_bytes: 12 * GIB,
            },
            uuid: uuid.map(ToOwned::to_owned),
        }
    }

    fn parts(gpus: Vec<BookedGpu>, used: &[(u32, u64)], known: &[GpuHealth]) -> Vec<GpuPart> {
        let token = AttemptToken {
            incarnation: Incarnation(1),
            experiment: ExperimentId::from_bits(1),
            attempt: 1,
            placed_at: LogIndex(1),
        };
        let tenant = GpuTenant {
            rank: 0,
            terms: GpuTerms {
                gpus,
                ..GpuTerms::default()
            },
            is_adopted: false,
        };
        let used = AttemptGpus {
            vram_by_gpu: used.iter().copied().collect(),
            ..AttemptGpus::default()
        };
        parts_of(token, &tenant, Some(&used), known)
    }

    #[test]
    fn a_gpu_is_known_by_its_name_wherever_the_driver_lists_it() {
        let known = [health("a", None), health("b", Some("XID 79"))];
        let parts = parts(vec![booked(0, Some("b"))], &[(1, GIB)], &known);
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].gpu, parts[0].used_bytes), (GpuIndex(0), GIB));
        assert_eq!(parts[0].problem.as_deref(), Some("XID 79"));
    }

    #[test]
    fn a_gpu_that_is_not_listed_has_vanished_unless_it_is_only_declared() {
        let known = [health("a", None)];
        let found = parts(vec![booked(1, Some("b"))], &[], &known);
        assert_eq!(found[0].problem.as_deref(), Some(VANISHED));
        let found = parts(vec![booked(1, None)], &[], &known);
        assert_eq!(found[0].problem, None);
    }

    #[test]
    fn what_it_uses_and_was_not_given_is_a_part_of_its_own() {
        let known = [health("a", None), health("b", None)];
        let found = parts(vec![booked(0, Some("a"))], &[(0, 1), (1, 2)], &known);
        let figures: Vec<_> = found
            .iter()
            .map(|part| (part.gpu.0, part.granted_milli, part.used_bytes))
            .collect();
        assert_eq!(figures, [(0, 500, 1), (1, 0, 2)]);
    }
}
