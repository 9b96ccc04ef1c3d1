//! The order of the list: who was counted once keeps its number, since attempts hold GPUs by number.

use super::Seen;
use super::xid::{Heard, apart};
use crate::GpuDetail;

/// Begins the name of a card that never told its uuid.
const NAMELESS: &str = "lost-";
const VANISHED: &str =
    "the driver does not know this GPU any more; `nvidia-smi` and `dmesg` may tell why";
const REMOVED: &str = "this MIG instance was removed";

/// What is known of each place.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<GpuDetail>);

/// What came of a place in one look.
#[derive(Clone, Debug)]
enum Found {
    /// Nothing yet.
    Nothing,
    Read(Box<GpuDetail>),
    Failed {
        problem: String,
        xids: Vec<Heard>,
    },
}

impl Places {
    /// Puts everyone into its place. The first time that is NVML's order; later the unknown take the places of parts
    /// of the same card that are gone, or come last.
    pub(super) fn arrange(&mut self, seen: Vec<Seen>) -> Vec<GpuDetail> {
        let mut found: Vec<Found> = self.0.iter().map(|_| Found::Nothing).collect();
        let mut unknown = Vec::new();
        for (index, seen) in seen.into_iter().enumerate() {
            match seen {
                Seen::Read(details) => {
                    for detail in details {
                        match self.place_of(&detail.uuid) {
                            Some(place) => found[place] = Found::Read(Box::new(detail)),
                            None => unknown.push((index, Found::Read(Box::new(detail)))),
                        }
                    }
                }
                Seen::Failed {
                    uuid,
                    problem,
                    xids,
                } => {
                    let failed = Found::Failed { problem, xids };
                    let places = uuid.map(|uuid| self.places_of_card(&uuid));
                    let places = places.unwrap_or_default();
                    for place in &places {
                        found[*place] = failed.clone();
                    }
                    if places.is_empty() {
                        unknown.push((index, failed));
                    }
                }
            }
        }
        for (index, newcomer) in unknown {
            let place = self.free_place(&found, &newcomer);
            let place = place.unwrap_or_else(|| {
                found.push(Found::Nothing);
                self.0.push(nameless(index));
                self.0.len() - 1
            });
            found[place] = newcomer;
        }
        for (known, found) in std::iter::zip(&mut self.0, found) {
            *known = match found {
                Found::Read(detail) => *detail,
                Found::Failed { problem, xids } => fail(known, &problem, &xids),
                Found::Nothing if known.part_of.is_some() => lost(known, REMOVED),
                Found::Nothing => lost(known, VANISHED),
            };
        }
        self.forget_removed();
        self.0.clone()
    }

    fn place_of(&self, uuid: &str) -> Option<usize> {
        self.0.iter().position(|known| known.uuid == uuid)
    }

    /// The place of a card, or those of its instances.
    fn places_of_card(&self, uuid: &str) -> Vec<usize> {
        let places = self.0.iter().enumerate();
        places
            .filter(|(_, known)| known.uuid == uuid || known.part_of.as_deref() == Some(uuid))
            .map(|(place, _)| place)
            .collect()
    }

    /// A place where nobody was found and that the newcomer may be: a card that does not say who it is may be any.
    fn free_place(&self, found: &[Found], newcomer: &Found) -> Option<usize> {
        let may_be = |known: &GpuDetail| match newcomer {
            Found::Read(detail) => {
                let same_card = known.part_of.is_some() && known.part_of == detail.part_of
                    || known.part_of.as_ref() == Some(&detail.uuid)
                    || detail.part_of.as_ref() == Some(&known.uuid);
                same_card || known.uuid.starts_with(NAMELESS)
            }
            Found::Failed { .. } | Found::Nothing => true,
        };
        std::iter::zip(&self.0, found)
            .position(|(known, found)| matches!(found, Found::Nothing) && may_be(known))
    }

    /// Instances that are gone need no place at the end of the list: nobody comes after them.
    fn forget_removed(&mut self) {
        while let Some(last) = self.0.last()
            && last.problem.as_deref() == Some(REMOVED)
        {
            self.0.pop();
        }
    }
}

fn nameless(index: usize) -> GpuDetail {
    GpuDetail {
        uuid: format!("{NAMELESS}{index}"),
        model: "unknown".to_owned(),
        ..GpuDetail::default()
    }
}

/// What was known of a card that does not say who it is says more than its error.
fn fail(known: &GpuDetail, problem: &str, xids: &[Heard]) -> GpuDetail {
    let earlier = known.problem.as_deref().filter(|_| xids.is_empty());
    let mut failed = lost(known, earlier.unwrap_or(problem));
    if !xids.is_empty() {
        (failed.xids, failed.xids_at) = apart(xids);
    }
    failed
}

/// A GPU that does not answer: who it is, and why it is not offered.
pub(crate) fn lost(known: &GpuDetail, problem: &str) -> GpuDetail {
    GpuDetail {
        uuid: known.uuid.clone(),
        model: known.model.clone(),
        part_of: known.part_of.clone(),
        pci_address: known.pci_address.clone(),
        vram_total_bytes: known.vram_total_bytes,
        numa_node: known.numa_node,
        xids: known.xids.clone(),
        xids_at: known.xids_at.clone(),
        problem: Some(problem.to_owned()),
        ..GpuDetail::default()
    }
}
