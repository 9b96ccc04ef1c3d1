//! From samples and declarations to a report.

use types::{GpuReport, NodeReport, Timestamp};

use crate::config::Declared;
use crate::gpus::GpuSample;
use crate::host::HostSample;
use crate::{Config, boot_id};

/// Work is taken again when this much more than the reserve is free, so that a node at the brink does not
/// change its mind with every written file: a sixteenth of the reserve.
const RESERVE_MARGIN_DIVISOR: u64 = 16;

/// What stays the same in all reports of this process, and what is remembered between them.
#[derive(Debug)]
pub(crate) struct Reporter {
    config: Config,
    started_at: Timestamp,
    boot_id: u64,
    sequence: u64,
    refuses_work: bool,
}

impl Reporter {
    pub(crate) fn new(config: Config, started_at: Timestamp) -> Self {
        Self {
            config,
            started_at,
            boot_id: boot_id(),
            sequence: 0,
            refuses_work: false,
        }
    }

    /// Makes the next report.
    pub(crate) fn report(
        &mut self,
        host: HostSample,
        gpus: &GpuSample,
        mut warnings: Vec<String>,
        now: Timestamp,
    ) -> NodeReport {
        let declared = &self.config.declared;
        let reserve = self.config.disk_reserve_bytes;
        self.refuses_work = refuses(self.refuses_work, host.disk_free_bytes, reserve);
        if self.refuses_work {
            let path = self.config.data_directory.display();
            let text = format!(
                "the disk of {path} is nearly full (under {} MiB free): new work is refused until space is freed",
                reserve >> 20
            );
            warnings.push(text);
        }
        // Who declares GPUs needs no driver; if there is one, it still tells what is broken.
        if declared.gpus.is_none() || !gpus.details.is_empty() {
            warnings.extend(gpus.warnings.iter().cloned());
        }
        self.sequence += 1;
        NodeReport {
            node: self.config.node.clone(),
            node_started_at: self.started_at,
            sequence: self.sequence,
            taken_at: now,
            boot_id: self.boot_id,
            cpu_milli: declared.cpu_milli.unwrap_or(host.cpu_milli),
            cpu_busy_milli: host.cpu_busy_milli,
            memory_bytes: declared.memory_bytes.unwrap_or(host.memory_bytes),
            memory_used_bytes: host.memory_used_bytes,
            disk_free_bytes: host.disk_free_bytes,
            gpus: offered_gpus(declared, gpus),
            declared: names(declared),
            warnings,
            refuses_work: self.refuses_work,
        }
    }
}

/// Whether the node refuses work at this much free space, given that it did before.
fn refuses(before: bool, free_bytes: u64, reserve_bytes: u64) -> bool {
    let margin = if before {
        reserve_bytes / RESERVE_MARGIN_DIVISOR
    } else {
        0
    };
    free_bytes < reserve_bytes.saturating_add(margin)
}

/// The declared GPUs with what is measured at the same place, or the measured ones.
fn offered_gpus(declared: &Declared, seen: &GpuSample) -> Vec<GpuReport> {
    let measured = &seen.reports;
    let mut gpus = match &declared.gpus {
        None => measured.clone(),
        Some(gpus) => gpus
            .iter()
            .enumerate()
            .map(|(index, gpu)| {
                let measured = measured.get(index);
                GpuReport {
                    uuid: measured.map_or_else(|| format!("declared-{index}"), |m| m.uuid.clone()),
                    model: gpu.model.clone(),
                    vram_total_bytes: gpu.vram_bytes,
                    vram_used_bytes: measured.map_or(0, |m| m.vram_used_bytes),
                    vram_foreign_bytes: measured.map_or(0, |m| m.vram_foreign_bytes),
                    utilisation_percent: measured.map_or(0, |m| m.utilisation_percent),
                    links: measured.map_or(0, |m| m.links),
                    numa_node: measured.and_then(|m| m.numa_node),
                }
            })
            .collect(),
    };
    if let Some(vram_bytes) = declared.vram_bytes {
        for gpu in &mut gpus {
            gpu.vram_total_bytes = vram_bytes;
        }
    }
    for (gpu, detail) in std::iter::zip(&mut gpus, &seen.details) {
        if detail.problem.is_some() {
            gpu.vram_total_bytes = 0; // Declared or not, nothing runs on it.
        }
    }
    gpus
}

fn names(declared: &Declared) -> Vec<String> {
    [
        ("cpus", declared.cpu_milli.is_some()),
        ("memory", declared.memory_bytes.is_some()),
        ("gpus", declared.gpus.is_some()),
        ("vram", declared.vram_bytes.is_some()),
    ]
    .into_iter()
    .filter(|(_name, is_declared)| *is_declared)
    .map(|(name, _is_declared)| name.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeclaredGpu, GpuDetail};

    fn host() -> HostSample {
        HostSample {
            cpu_milli: 8_000,
            cpu_busy_milli: 100,
            memory_bytes: 32 << 30,
            memory_used_bytes: 1 << 30,
            disk_free_bytes: 100 << 30,
        }
    }

    fn gpu(uuid: &str) -> GpuReport {
        GpuReport {
            uuid: uuid.to_owned(),
            model: "H100".to_owned(),
            vram_total_bytes: 80 << 30,
            vram_used_bytes: 3 << 30,
            vram_foreign_bytes: 0,
            utilisation_percent: 7,
            links: 0,
            numa_node: None,
        }
    }

    fn reporter(declared: Declared) -> Reporter {
        let node = "12D3KooWnode".parse().unwrap();
        let config = Config {
            declared,
            ..Config::new(node, "/data".into())
        };
        Reporter::new(config, Timestamp(1))
    }

    #[test]
    fn measured_figures_are_reported_and_nothing_is_called_declared() {
        let gpus = GpuSample {
            reports: vec![gpu("GPU-a")],
            warnings: vec!["old".to_owned()],
            ..GpuSample::default()
        };
        let mut reporter = reporter(Declared::default());
        let report = reporter.report(host(), &gpus, Vec::new(), Timestamp(2));
        assert_eq!((report.cpu_milli, report.memory_bytes), (8_000, 32 << 30));
        assert_eq!(report.gpus, vec![gpu("GPU-a")]);
        assert!(report.declared.is_empty() && !report.refuses_work);
        assert_eq!(report.warnings, vec!["old"]);
        assert_eq!((report.sequence, report.taken_at), (1, Timestamp(2)));
        let next = reporter.report(host(), &GpuSample::default(), Vec::new(), Timestamp(3));
        assert_eq!((next.sequence, next.node_started_at), (2, Timestamp(1)));
    }

    #[test]
    fn declared_figures_win_and_are_named() {
        let declared = Declared {
            cpu_milli: Some(2_000),
            memory_bytes: Some(1 << 30),
            gpus: Some(vec![
                DeclaredGpu {
                    model: "A100".to_owned(),
                    vram_bytes: 40 << 30,
                };
                2
            ]),
            vram_bytes: Some(10 << 30),
        };
        let gpus = GpuSample {
            reports: vec![gpu("GPU-a")],
            warnings: vec!["no NVIDIA driver library".to_owned()],
            ..GpuSample::default()
        };
        let report = reporter(declared).report(host(), &gpus, Vec::new(), Timestamp(2));
        assert_eq!((report.cpu_milli, report.memory_bytes), (2_000, 1 << 30));
        assert_eq!(report.declared, ["cpus", "memory", "gpus", "vram"]);
        let uuids: Vec<_> = report.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        assert_eq!(uuids, ["GPU-a", "declared-1"]);
        assert_eq!(report.gpus[0].model, "A100");
        assert_eq!(report.gpus[0].vram_used_bytes, 3 << 30);
        assert!(
            report
                .gpus
                .iter()
                .all(|gpu| gpu.vram_total_bytes == 10 << 30)
        );
        assert!(report.warnings.is_empty(), "declared GPUs need no driver");
    }

    #[test]
    fn no_gpus_can_be_declared() {
        let declared = Declared {
            gpus: Some(Vec::new()),
            ..Declared::default()
        };
        let seen = GpuSample {
            reports: vec![gpu("GPU-a")],
            ..GpuSample::default()
        };
        assert!(offered_gpus(&declared, &seen).is_empty());
    }

    #[test]
    fn declared_memory_does_not_make_a_broken_gpu_whole() {
        let declared = Declared {
            vram_bytes: Some(10 << 30),
            ..Declared::default()
        };
        let broken = GpuDetail {
            problem: Some("XID 79".to_owned()),
            ..GpuDetail::default()
        };
        let seen = GpuSample {
            reports: vec![gpu("GPU-a"), gpu("GPU-b")],
            details: vec![GpuDetail::default(), broken],
            ..GpuSample::default()
        };
        let gpus = offered_gpus(&declared, &seen);
        let totals: Vec<_> = gpus.iter().map(|gpu| gpu.vram_total_bytes).collect();
        assert_eq!(totals, [10 << 30, 0]);
    }

    #[test]
    fn full_disk_refuses_work_until_there_is_clearly_room() {
        let mut reporter = reporter(Declared::default());
        let reserve = Config::DEFAULT_DISK_RESERVE_BYTES;
        let mut at = |disk_free_bytes| {
            let host = HostSample {
                disk_free_bytes,
                ..host()
            };
            let report = reporter.report(host, &GpuSample::default(), Vec::new(), Timestamp(2));
            assert_eq!(report.refuses_work, report.warnings.len() == 1);
            report.refuses_work
        };
        assert!(!at(reserve));
        assert!(at(reserve - 1));
        assert!(at(reserve + 1), "not at once");
        assert!(!at(reserve + reserve / 16));
    }
}
