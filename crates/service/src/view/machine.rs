//! What machines do, as people see it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeView;
pub use telemetry::{
    DiskDetail, GpuDetail, GpuProcess, HostDetail, InterfaceDetail, MachineSample, Pressure,
    Temperature,
};

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineView {
    /// What the cluster knows of it.
    pub node: NodeView,
    /// What it says of itself at this moment.
    pub sample: Option<MachineSample>,
    /// Why it says nothing.
    pub silent: Option<String>,
}

/// All machines that were asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachinesView {
    /// One for each node, by name.
    pub machines: Vec<MachineView>,
    /// What a person should know of the cluster.
    pub warnings: Vec<String>,
}
