//! What the cards are connected to: NVLink and the processor's memory.

use std::collections::{BTreeMap, BTreeSet};

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;

use super::told;
use crate::GpuDetail;

/// `NVML_NVLINK_MAX_LINKS` of NVML 12.
const MAX_NVLINKS: u32 = 18;
/// `NVML_AFFINITY_SCOPE_NODE`.
const SCOPE_NODE: u32 = 0;
/// Words for the mask of NUMA nodes: the kernel's limit is 1,024 of them (`CONFIG_NODES_SHIFT` 10).
const NODE_WORDS: usize = 1_024 / u64::BITS as usize;

/// PCI addresses at the other ends of the active links by NVLink: those of cards or of switches. The type of the other end is
/// not asked: nvml-wrapper 0.13 drops the answer.
pub(super) fn nvlinks(device: &Device<'_>) -> Result<Vec<String>, NvmlError> {
    let mut ends = Vec::new();
    for link in 0..MAX_NVLINKS {
        let link = device.link_wrapper_for(link);
        match told(link.is_active())? {
            Some(true) => {
                let end = told(link.remote_pci_info())?;
                ends.extend(end.map(|end| end.bus_id.to_ascii_uppercase()));
            }
            Some(false) => {}
            None => break, // It has no more of them.
        }
    }
    Ok(ends)
}

/// Fills in whom NVLink joins: cards at the two ends of a link, and cards with a link to the same switch.
pub(super) fn join(details: &mut [GpuDetail], ends: &BTreeMap<&str, &[String]>) {
    let none: &[String] = &[];
    let reached: Vec<BTreeSet<&str>> = details
        .iter()
        .map(|detail| {
            let ends = ends.get(detail.uuid.as_str()).unwrap_or(&none);
            ends.iter().map(String::as_str).collect()
        })
        .collect();
    let addresses: Vec<_> = details
        .iter()
        .map(|detail| detail.pci_address.as_deref().unwrap_or_default())
        .map(str::to_ascii_uppercase)
        .collect();
    for (place, detail) in details.iter_mut().enumerate() {
        detail.linked_to.clear();
        if detail.part_of.is_some() {
            continue; // Instances have no NVLink.
        }
        let others = (0..reached.len()).filter(|other| *other != place);
        let linked = others.filter(|other| {
            reached[place].contains(addresses[*other].as_str())
                || !reached[place].is_disjoint(&reached[*other])
        });
        let linked = linked.filter_map(|other| u32::try_from(other).ok());
        detail.linked_to = linked.collect();
    }
}

/// The NUMA node next to the card: by NVML, or by the kernel where that tells none or several.
pub(super) fn numa_node(
    device: &Device<'_>,
    pci: Option<&PciInfo>,
) -> Result<Option<u32>, NvmlError> {
    let mask = told(device.memory_affinity(NODE_WORDS, SCOPE_NODE))?;
    let told = mask.as_deref().and_then(only_node);
    Ok(told.or_else(|| pci.and_then(kernel_numa_node)))
}

/// The one bit that is set.
fn only_node(mask: &[u64]) -> Option<u32> {
    let mut set = (0_u32..).zip(mask).filter(|(_index, word)| **word != 0);
    let (index, word) = set.next()?;
    let is_only = set.next().is_none() && word.is_power_of_two();
    is_only.then(|| index * u64::BITS + word.trailing_zeros())
}

fn kernel_numa_node(pci: &PciInfo) -> Option<u32> {
    let address = format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
    let path = format!("/sys/bus/pci/devices/{address}/numa_node");
    // Not readable, or -1 for a machine with one node: none.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, address: &str) -> GpuDetail {
        GpuDetail {
            uuid: uuid.to_owned(),
            pci_address: Some(address.to_owned()),
            ..GpuDetail::default()
        }
    }

    #[test]
    fn cards_are_joined_by_a_link_or_by_a_switch() {
        let mut details = [
            gpu("a", "00000000:1b:00.0"),
            gpu("b", "00000000:2B:00.0"),
            gpu("c", "00000000:3B:00.0"),
            gpu("d", "00000000:4B:00.0"),
        ];
        let to = |address: &str| vec![address.to_owned()];
        let (a, b) = (to("00000000:2B:00.0"), to("00000000:1B:00.0"));
        let switch = to("00000000:09:00.0");
        let ends = [("a", &*a), ("b", &*b), ("c", &*switch), ("d", &*switch)];
        join(&mut details, &ends.into());
        let linked: Vec<_> = details.iter().map(|gpu| gpu.linked_to.clone()).collect();
        assert_eq!(linked, [vec![1], vec![0], vec![3], vec![2]]);
    }

    #[test]
    fn node_is_told_if_there_is_one() {
        assert_eq!(only_node(&[0, 2]), Some(65));
        assert_eq!(only_node(&[3]), None);
        assert_eq!(only_node(&[1, 1]), None);
        assert_eq!(only_node(&[]), None);
    }
}
