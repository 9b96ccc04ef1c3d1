//! Cards that are split into instances (Multi-Instance GPU).

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;

use super::lineage::Lineage;
use super::{card, told};
use crate::GpuDetail;

/// Why a split card without instances is not offered.
pub(super) const EMPTY: &str = "it is split by MIG and has no instances; make some (`nvidia-smi mig -cgi … -C`) or turn MIG off";

/// Whether its instances are used in its place.
pub(super) fn is_split(device: &Device<'_>) -> Result<bool, NvmlError> {
    Ok(told(device.mig_mode())?.is_some_and(|mode| mode.current != 0))
}

/// The instances of a card. NVML tells neither utilisation nor power of them; what breaks the card breaks them too.
pub(super) fn instances<'nvml>(
    device: &Device<'nvml>,
    card: &GpuDetail,
    lineage: &mut Lineage<'_>,
) -> Result<Vec<GpuDetail>, NvmlError> {
    let mut instances = Vec::new();
    for index in 0..told(device.mig_device_count())?.unwrap_or(0) {
        // The count is the most that there may be: places without an instance are not found.
        if let Some(instance) = told(device.mig_device_by_index(index))? {
            instances.extend(told(read(&instance, card, lineage))?);
        }
    }
    Ok(instances)
}

fn read(
    device: &Device<'_>,
    card: &GpuDetail,
    lineage: &mut Lineage<'_>,
) -> Result<GpuDetail, NvmlError> {
    let mut detail = GpuDetail {
        uuid: device.uuid()?,
        model: told(device.name())?.unwrap_or_else(|| format!("{} MIG", card.model)),
        part_of: Some(card.uuid.clone()),
        pci_address: card.pci_address.clone(),
        numa_node: card.numa_node,
        ecc_corrected: card.ecc_corrected,
        ecc_uncorrected: card.ecc_uncorrected,
        retired_pages: card.retired_pages,
        xids: card.xids.clone(),
        xids_at: card.xids_at.clone(),
        problem: card.problem.clone(),
        ..GpuDetail::default()
    };
    card::memory(device, &mut detail, lineage)?;
    Ok(detail)
}
