//! NVIDIA's management library, opened at run time.

use std::path::Path;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use types::GpuReport;

use crate::gpus::{GpuSample, lose};

/// The open driver and what it said of each GPU last.
pub(crate) struct Driver {
    nvml: Nvml,
    last: Vec<GpuReport>,
}

impl Driver {
    /// Opens the library at `path`, or the driver's own.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, NvmlError> {
        let mut builder = Nvml::builder();
        if let Some(path) = path {
            builder.lib_path(path.as_os_str());
        }
        Ok(Self {
            nvml: builder.init()?,
            last: Vec::new(),
        })
    }

    /// Reads all GPUs; one that fails is told in the warnings and keeps its place.
    pub(crate) fn sample(&mut self) -> Result<GpuSample, NvmlError> {
        let mut sample = GpuSample::default();
        for index in 0..self.nvml.device_count()? {
            let read = self.nvml.device_by_index(index).and_then(|gpu| read(&gpu));
            sample.gpus.push(read.unwrap_or_else(|error| {
                let text = format!("GPU {index} does not answer and is not offered: {error}");
                sample.warnings.push(text);
                self.lost(sample.gpus.len())
            }));
        }
        self.last.clone_from(&sample.gpus);
        Ok(sample)
    }

    fn lost(&self, index: usize) -> GpuReport {
        let unknown = GpuReport {
            uuid: format!("lost-{index}"),
            model: "unknown".to_owned(),
            vram_total_bytes: 0,
            vram_used_bytes: 0,
            vram_foreign_bytes: 0,
            utilisation_percent: 0,
            links: 0,
            numa_node: None,
        };
        self.last.get(index).cloned().map_or(unknown, lose)
    }
}

fn read(gpu: &Device<'_>) -> Result<GpuReport, NvmlError> {
    let memory = gpu.memory_info()?;
    let utilisation = match gpu.utilization_rates() {
        Ok(rates) => rates.gpu.min(100),
        // GPUs split by MIG and old libraries do not tell it; placement does without.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => 0,
        Err(error) => return Err(error),
    };
    Ok(GpuReport {
        uuid: gpu.uuid()?,
        model: gpu.name()?,
        vram_total_bytes: memory.total,
        vram_used_bytes: memory
            .used
            .saturating_add(memory.reserved)
            .min(memory.total),
        vram_foreign_bytes: 0,
        utilisation_percent: u8::try_from(utilisation).unwrap_or(100),
        links: 0,
        numa_node: None,
    })
}

/// The failure in a person's words, with what to do.
pub(crate) fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "CPU node: no NVIDIA driver (libnvidia-ml.so.1)".to_owned()
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver is installed but not loaded: no GPUs are offered; `modprobe nvidia` or a restart may help".to_owned()
        }
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library have different versions: no GPUs are offered until the machine is restarted".to_owned()
        }
        other => format!("the NVIDIA driver failed ({other}): no GPUs are offered"),
    }
}
