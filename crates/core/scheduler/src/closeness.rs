//! Which GPUs of a node belong together: by NVLink first, then by memory node.

use std::cmp::Reverse;

use crate::offer::GpuOffer;

/// `count` of the GPUs, as close together as they come: the most pairs that NVLink joins, then the fewest memory nodes,
/// then the fewest links torn to those that stay behind, then the least memory.
pub(crate) fn closest<'a>(found: &[&'a GpuOffer], count: usize) -> Vec<&'a GpuOffer> {
    let mut found = found.to_vec();
    found.sort_by_key(|gpu| (gpu.vram_total_bytes, gpu.index));
    let alike = |gpu: &&GpuOffer| gpu.links == 0 && gpu.numa_node == found[0].numa_node;
    if found.len() <= count || found.iter().all(alike) {
        found.truncate(count);
        return found;
    }
    // Grown from each of them: a node has few GPUs, and what joins them is regular.
    let sets = found.iter().map(|first| grow(first, &found, count));
    let best = sets.min_by_key(|set| {
        let joined: u32 = set.iter().map(|gpu| links(gpu, set)).sum();
        let all: u32 = set.iter().map(|gpu| links(gpu, &found)).sum();
        let memory: u64 = set.iter().map(|gpu| gpu.vram_total_bytes).sum();
        (Reverse(joined), memory_nodes(set), all - joined, memory)
    });
    best.unwrap_or_default()
}

/// How many of these a GPU would leave alone if it was taken: those that NVLink joins it to, then those of its memory node.
pub(crate) fn company(gpu: &GpuOffer, found: &[&GpuOffer]) -> (u32, usize) {
    let near = |other: &&&GpuOffer| other.index != gpu.index && other.numa_node == gpu.numa_node;
    (links(gpu, found), found.iter().filter(near).count())
}

fn grow<'a>(first: &'a GpuOffer, found: &[&'a GpuOffer], count: usize) -> Vec<&'a GpuOffer> {
    let mut set = vec![first];
    while set.len() < count {
        let others = found
            .iter()
            .filter(|gpu| set.iter().all(|taken| taken.index != gpu.index));
        let next = others.max_by_key(|gpu| {
            let near = set.iter().any(|taken| taken.numa_node == gpu.numa_node);
            (
                links(gpu, &set),
                near,
                Reverse(gpu.vram_total_bytes),
                Reverse(gpu.index),
            )
        });
        let Some(next) = next else {
            break;
        };
        set.push(next);
    }
    set
}

/// How many of these NVLink joins it to.
fn links(gpu: &GpuOffer, others: &[&GpuOffer]) -> u32 {
    let joined = |other: &&&GpuOffer| {
        let bit = 1_u32.checked_shl(other.index.0).unwrap_or(0);
        other.index != gpu.index && gpu.links & bit != 0
    };
    u32::try_from(others.iter().filter(joined).count()).unwrap_or(u32::MAX)
}

fn memory_nodes(set: &[&GpuOffer]) -> usize {
    let nodes: std::collections::BTreeSet<_> = set.iter().map(|gpu| gpu.numa_node).collect();
    nodes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::GpuIndex;

    fn gpu(index: u32, links: u32, numa_node: u8) -> GpuOffer {
        GpuOffer {
            index: GpuIndex(index),
            model: "A100".to_owned(),
            vram_total_bytes: 80 << 30,
            vram_booked_bytes: 0,
            vram_used_bytes: 0,
            vram_foreign_bytes: 0,
            booked_milli: 0,
            is_instance: false,
            links,
            numa_node: Some(numa_node),
        }
    }

    fn chosen(gpus: &[GpuOffer], count: usize) -> Vec<u32> {
        let found: Vec<_> = gpus.iter().collect();
        let mut chosen: Vec<_> = closest(&found, count)
            .iter()
            .map(|gpu| gpu.index.0)
            .collect();
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn a_pair_that_nvlink_joins_goes_together() {
        let bridged = [
            gpu(0, 0, 0),
            gpu(1, 0b100, 0),
            gpu(2, 0b010, 1),
            gpu(3, 0, 1),
        ];
        assert_eq!(chosen(&bridged, 2), [1, 2]);
        // One alone is taken from outside the pair.
        assert_eq!(
            company(&bridged[0], &bridged.iter().collect::<Vec<_>>()).0,
            0
        );
        assert_eq!(chosen(&bridged, 4), [0, 1, 2, 3]);
    }

    #[test]
    fn without_nvlink_those_of_one_memory_node_go_together() {
        let plain = [gpu(0, 0, 0), gpu(1, 0, 1), gpu(2, 0, 1), gpu(3, 0, 0)];
        assert_eq!(chosen(&plain[1..], 2), [1, 2]);
    }

    #[test]
    fn two_of_a_full_mesh_of_four_do_not_tear_the_pair_beside_it() {
        let mesh = |index: u32| gpu(index, 0b1111 & !(1 << index), 0);
        let pair = [gpu(4, 1 << 5, 1), gpu(5, 1 << 4, 1)];
        let gpus: Vec<_> = (0..4).map(mesh).chain(pair).collect();
        assert_eq!(chosen(&gpus, 2), [4, 5], "the mesh stays whole");
        assert_eq!(chosen(&gpus, 3), [0, 1, 2]);
    }
}
