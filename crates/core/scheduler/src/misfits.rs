//! Requests that were found to fit nowhere: what asks for as much for as long fits nowhere either.

use std::collections::BTreeMap;

use types::{DurationMs, ResourceRequest};

use crate::fit::Who;

/// Requests that are compared with later ones that ask for more; of all others only the same again is known. More than
/// these few rarely tell more.
const MAX_COMPARED: usize = 16;
/// Requests that are remembered exactly.
const MAX_REMEMBERED: usize = 4_096;

/// What one round has found to fit nowhere. What is left only shrinks within a round, so it stays so.
#[derive(Debug, Default)]
pub(crate) struct Misfits<'a> {
    /// Some node is one person's: what fits nowhere for one may fit for another.
    by_user: bool,
    /// With the shortest time in milliseconds for which it does not fit; the largest number: nobody knows how long.
    exact: BTreeMap<(&'a ResourceRequest, &'a str), u64>,
    compared: Vec<(Who<'a>, u64)>,
}

impl<'a> Misfits<'a> {
    pub(crate) fn new(by_user: bool) -> Self {
        Self {
            by_user,
            ..Self::default()
        }
    }

    /// Whether those known tell that this one does not fit.
    pub(crate) fn tell_of(&self, who: Who<'a>, duration: Option<DurationMs>) -> bool {
        let length = length(duration);
        let same = self.exact.get(&self.key(who));
        same.is_some_and(|known| *known <= length)
            || self.compared.iter().any(|(known, shortest)| {
                *shortest <= length
                    && (!self.by_user || known.user == who.user)
                    && asks_more(who.request, known.request)
            })
    }

    /// It fits nowhere.
    pub(crate) fn note(&mut self, who: Who<'a>, duration: Option<DurationMs>) {
        let length = length(duration);
        if self.compared.len() < MAX_COMPARED {
            self.compared.push((who, length));
        }
        let key = self.key(who);
        if self.exact.len() < MAX_REMEMBERED || self.exact.contains_key(&key) {
            let shortest = self.exact.entry(key).or_insert(length);
            *shortest = length.min(*shortest);
        }
    }

    fn key(&self, who: Who<'a>) -> (&'a ResourceRequest, &'a str) {
        (who.request, if self.by_user { who.user } else { "" })
    }
}

fn length(duration: Option<DurationMs>) -> u64 {
    duration.map_or(u64::MAX, |duration| duration.0)
}

/// Whether `request` cannot fit where `misfit` does not: it asks for at least as much of everything.
pub(crate) fn asks_more(request: &ResourceRequest, misfit: &ResourceRequest) -> bool {
    // Memory alone is another part of each GPU.
    let same_kind = (request.gpu_milli == 0) == (misfit.gpu_milli == 0) || misfit.vram_bytes == 0;
    let stricter = misfit.constraints.is_empty() || request.constraints == misfit.constraints;
    let pickier = misfit.gpu_models.is_empty() || request.gpu_models == misfit.gpu_models;
    same_kind
        && stricter
        && pickier
        && request.nodes >= misfit.nodes
        && request.exclusive >= misfit.exclusive
        && request.cpu_milli >= misfit.cpu_milli
        && request.memory_bytes >= misfit.memory_bytes
        && request.disk_bytes >= misfit.disk_bytes
        && request.gpu_milli >= misfit.gpu_milli
        && request.vram_bytes == misfit.vram_bytes
}
