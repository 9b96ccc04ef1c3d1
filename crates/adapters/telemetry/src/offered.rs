//! From what is known of the GPUs to what is offered to attempts.

use types::GpuReport;

use crate::GpuDetail;

/// The GPUs as gossip has them. One with a problem is still counted, so that the numbers of the others stay, but nothing
/// fits on it.
pub(crate) fn offered(details: &[GpuDetail]) -> Vec<GpuReport> {
    details.iter().map(offer).collect()
}

fn offer(detail: &GpuDetail) -> GpuReport {
    let is_whole = detail.problem.is_none();
    let if_whole = |bytes: u64| if is_whole { bytes } else { 0 };
    let links = detail.linked_to.iter().filter(|_| is_whole);
    GpuReport {
        uuid: detail.uuid.clone(),
        model: detail.model.clone(),
        vram_total_bytes: if_whole(detail.vram_total_bytes),
        vram_used_bytes: if_whole(detail.vram_used_bytes),
        vram_foreign_bytes: if_whole(detail.vram_foreign_bytes.min(detail.vram_total_bytes)),
        utilisation_percent: detail.utilisation_percent.filter(|_| is_whole).unwrap_or(0),
        // Places past the mask have no bit.
        links: links
            .filter_map(|place| 1_u32.checked_shl(*place))
            .fold(0, |mask, bit| mask | bit),
        numa_node: detail.numa_node.and_then(|node| u8::try_from(node).ok()), // A node past 255 is not told.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> GpuDetail {
        GpuDetail {
            uuid: "GPU-1".to_owned(),
            model: "H100".to_owned(),
            vram_total_bytes: 80 << 30,
            vram_used_bytes: 3 << 30,
            vram_foreign_bytes: 1 << 30,
            utilisation_percent: Some(50),
            linked_to: vec![1, 3, 40],
            numa_node: Some(1),
            ..GpuDetail::default()
        }
    }

    #[test]
    fn whole_gpu_is_offered_with_its_links_as_bits() {
        let [report] = &offered(&[detail()])[..] else {
            unreachable!("one makes one")
        };
        assert_eq!((report.links, report.numa_node), (0b1010, Some(1)));
        assert_eq!(report.vram_foreign_bytes, 1 << 30);
        assert_eq!(report.utilisation_percent, 50);
    }

    #[test]
    fn gpu_with_a_problem_keeps_its_place_and_offers_nothing() {
        let broken = GpuDetail {
            problem: Some("XID 79".to_owned()),
            ..detail()
        };
        let reports = offered(&[detail(), broken]);
        assert_eq!(reports[1].uuid, "GPU-1");
        assert_eq!(reports[1].vram_total_bytes, 0);
        assert_eq!((reports[1].links, reports[1].utilisation_percent), (0, 0));
    }
}
