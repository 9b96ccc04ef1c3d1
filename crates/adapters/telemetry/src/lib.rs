//! What this machine has and does, sampled into [`types::NodeReport`]s.
//!
//! Processors, memory and disk come from the kernel, GPUs from NVML if its library is there; what the node's
//! configuration declares wins and is marked so. A driver that hangs never blocks the node.

mod boot;
mod config;
mod error;
mod gpus;
mod host;
mod nvml;
mod offered;
mod publish;
mod report;
mod sample;
mod sampler;

pub use boot::boot_id;
pub use config::{Config, Declared, DeclaredGpu};
pub use error::Error;
pub use sample::{
    AttemptGpus, DiskDetail, GpuDetail, GpuHealth, GpuLook, GpuProcess, HostDetail,
    InterfaceDetail, MachineSample, OwnTree, Pressure, Temperature,
};
pub use sampler::{Handle, start};
