//! When a report is worth telling.

use std::time::Duration;

use types::{GpuReport, NodeId, NodeReport};

/// A report is told at least this often, changed or not: others count its age.
pub(crate) const AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// Of [`AT_LEAST_EVERY`], the part by which a node may be early, so that nodes started together do not speak
/// together: a quarter.
const JITTER_DIVISOR: u64 = 4;
/// Change of busy cores that is told: half a core, or a tenth of all on a large machine.
const NOTABLE_CPU_MILLI: u64 = 500;
/// Change of memory that is told: a twentieth of it.
const NOTABLE_MEMORY_DIVISOR: u64 = 20;
/// Change of free disk that is told: what a checkpoint takes.
const NOTABLE_DISK_BYTES: u64 = 1 << 30;
/// Change of a GPU's utilisation that is told.
const NOTABLE_UTILISATION_PERCENT: u8 = 10;

/// Whether `new` differs from the report that was `told` last by more than noise.
pub(crate) fn is_news(told: &NodeReport, new: &NodeReport) -> bool {
    let cpu = NOTABLE_CPU_MILLI.max(new.cpu_milli / 10);
    let memory = new.memory_bytes / NOTABLE_MEMORY_DIVISOR;
    told.cpu_milli != new.cpu_milli
        || told.memory_bytes != new.memory_bytes
        || told.declared != new.declared
        || told.warnings != new.warnings
        || told.refuses_work != new.refuses_work
        || told.cpu_busy_milli.abs_diff(new.cpu_busy_milli) >= cpu
        || told.memory_used_bytes.abs_diff(new.memory_used_bytes) >= memory
        || told.disk_free_bytes.abs_diff(new.disk_free_bytes) >= NOTABLE_DISK_BYTES
        || told.gpus.len() != new.gpus.len()
        || std::iter::zip(&told.gpus, &new.gpus).any(|(told, new)| is_gpu_news(told, new))
}

fn is_gpu_news(told: &GpuReport, new: &GpuReport) -> bool {
    let memory = (new.vram_total_bytes / NOTABLE_MEMORY_DIVISOR).max(1);
    told.uuid != new.uuid
        || told.model != new.model
        || told.vram_total_bytes != new.vram_total_bytes
        || told.links != new.links
        || told.numa_node != new.numa_node
        || told.vram_used_bytes.abs_diff(new.vram_used_bytes) >= memory
        || told.vram_foreign_bytes.abs_diff(new.vram_foreign_bytes) >= memory
        || told.utilisation_percent.abs_diff(new.utilisation_percent) >= NOTABLE_UTILISATION_PERCENT
}

/// How long after the report with this number the next one is due although nothing changed: from three quarters
/// of [`AT_LEAST_EVERY`] to the whole, different for each node and report.
pub(crate) fn due_after(node: &NodeId, sequence: u64) -> Duration {
    // FNV-1a (Fowler, Noll, Vo), 64 bits.
    let hash = node
        .as_str()
        .bytes()
        .chain(sequence.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let whole = AT_LEAST_EVERY.as_secs() * 1_000;
    Duration::from_millis(whole - (hash >> 16) % (whole / JITTER_DIVISOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Timestamp;

    fn report() -> NodeReport {
        NodeReport {
            node: "12D3KooWnode".parse().unwrap(),
            node_started_at: Timestamp(1),
            sequence: 1,
            taken_at: Timestamp(1),
            boot_id: 1,
            cpu_milli: 16_000,
            cpu_busy_milli: 1_000,
            memory_bytes: 100 << 30,
            memory_used_bytes: 10 << 30,
            disk_free_bytes: 100 << 30,
            gpus: vec![GpuReport {
                uuid: "GPU-a".to_owned(),
                model: "H100".to_owned(),
                vram_total_bytes: 80 << 30,
                vram_used_bytes: 0,
                vram_foreign_bytes: 0,
                utilisation_percent: 0,
                links: 0,
                numa_node: None,
            }],
            declared: Vec::new(),
            warnings: Vec::new(),
            refuses_work: false,
        }
    }

    #[test]
    fn noise_is_no_news() {
        let told = report();
        let mut new = report();
        new.sequence = 9;
        new.taken_at = Timestamp(9);
        new.cpu_busy_milli += 1_599;
        new.memory_used_bytes += (5 << 30) - 1;
        new.disk_free_bytes -= (1 << 30) - 1;
        new.gpus[0].vram_used_bytes += (4 << 30) - 1;
        new.gpus[0].utilisation_percent = 9;
        assert!(!is_news(&told, &new));
    }

    #[test]
    fn each_change_that_matters_is_news() {
        let changes: [fn(&mut NodeReport); 16] = [
            |r| r.cpu_busy_milli += 1_600,
            |r| r.cpu_busy_milli = 0,
            |r| r.cpu_milli += 1,
            |r| r.memory_bytes -= 1,
            |r| r.memory_used_bytes += 5 << 30,
            |r| r.disk_free_bytes -= 1 << 30,
            |r| r.gpus.clear(),
            |r| r.gpus[0].vram_used_bytes = 4 << 30,
            |r| r.gpus[0].vram_foreign_bytes = 4 << 30,
            |r| r.gpus[0].links = 1,
            |r| r.gpus[0].numa_node = Some(0),
            |r| r.gpus[0].vram_total_bytes = 0,
            |r| r.gpus[0].utilisation_percent = 10,
            |r| r.gpus[0].uuid = "GPU-b".to_owned(),
            |r| r.warnings.push("disk".to_owned()),
            |r| r.refuses_work = true,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut new = report();
            change(&mut new);
            // 1 of 16 cores is under the threshold of a tenth of them.
            assert_eq!(is_news(&report(), &new), number != 1, "change {number}");
        }
    }

    #[test]
    fn lost_gpu_without_memory_is_not_news_for_ever() {
        let mut lost = report();
        lost.gpus[0].vram_total_bytes = 0;
        assert!(!is_news(&lost, &lost.clone()));
    }

    #[test]
    fn reports_are_due_within_the_bound_and_spread() {
        let node: NodeId = "12D3KooWnode".parse().unwrap();
        let dues: std::collections::BTreeSet<_> = (0..100)
            .map(|sequence| due_after(&node, sequence))
            .collect();
        assert!(dues.len() > 50, "{}", dues.len());
        assert!(dues.iter().all(|due| *due <= AT_LEAST_EVERY));
        assert!(dues.iter().all(|due| *due > AT_LEAST_EVERY * 3 / 4));
    }
}
