//! Errors of a card's memory, and what the driver itself says is to be done.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_REMAPPED_COR, NVML_FI_DEV_REMAPPED_FAILURE,
    NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_UNC, NVML_FI_DEV_RETIRED_DBE,
    NVML_FI_DEV_RETIRED_PENDING, NVML_FI_DEV_RETIRED_SBE,
};

use super::told;

/// One call tells them all; the order is that of [`Health::from_fields`].
const FIELDS: [FieldId; 8] = [
    FieldId(NVML_FI_DEV_RETIRED_SBE),
    FieldId(NVML_FI_DEV_RETIRED_DBE),
    FieldId(NVML_FI_DEV_RETIRED_PENDING),
    FieldId(NVML_FI_DEV_REMAPPED_COR),
    FieldId(NVML_FI_DEV_REMAPPED_UNC),
    FieldId(NVML_FI_DEV_REMAPPED_PENDING),
    FieldId(NVML_FI_DEV_REMAPPED_FAILURE),
    FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
];

/// How a card is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) ecc_corrected: Option<u64>,
    pub(super) ecc_uncorrected: Option<u64>,
    /// Pages (before Ampere) or rows that are not used any more.
    pub(super) retired: Option<u32>,
    /// Some more wait for a reset.
    pending: bool,
    /// No row was left to take the place of a bad one.
    remap_failed: bool,
    /// `nvmlDeviceGpuRecoveryAction_t`, from driver 570 on.
    recovery_action: u64,
}

impl Health {
    pub(super) fn read(device: &Device<'_>) -> Result<Self, NvmlError> {
        let errors = |kind| told(device.total_ecc_errors(kind, EccCounter::Volatile));
        let answers = told(device.field_values_for(&FIELDS))?.unwrap_or_default();
        let mut values = [None; FIELDS.len()];
        for (value, answer) in std::iter::zip(&mut values, answers) {
            let sample = answer.ok().and_then(|field| field.value.ok()); // Not told is none.
            *value = sample.and_then(|sample| number(&sample));
        }
        Ok(Self {
            ecc_corrected: errors(MemoryError::Corrected)?,
            ecc_uncorrected: errors(MemoryError::Uncorrected)?,
            ..Self::from_fields(values)
        })
    }

    fn from_fields(values: [Option<u64>; FIELDS.len()]) -> Self {
        let [
            single_bit,
            double_bit,
            retirement_pending,
            corrected,
            uncorrected,
            remap_pending,
            remap_failed,
            recovery_action,
        ] = values;
        // A card has either pages that retire or rows that are remapped.
        let counts = [single_bit, double_bit, corrected, uncorrected];
        let retired = counts.into_iter().flatten().reduce(u64::saturating_add);
        let is_set = |flag: Option<u64>| flag.is_some_and(|flag| flag != 0);
        Self {
            retired: retired.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            pending: is_set(retirement_pending) || is_set(remap_pending),
            remap_failed: is_set(remap_failed),
            recovery_action: recovery_action.unwrap_or(0),
            ..Self::default()
        }
    }

    /// Why the card must not be used, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        let text = match self.recovery_action {
            1 | 4 => {
                "the driver asks for a reset: `nvidia-smi --gpu-reset`, with this node stopped"
            }
            2 => "the driver asks for a restart of the machine",
            _ if self.remap_failed => {
                "its memory has more bad rows than it can replace; have the card exchanged"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// What a person should know although the card is offered.
    pub(super) fn worries(&self) -> Option<String> {
        let uncorrected = self.ecc_uncorrected.filter(|count| *count > 0);
        let errors = uncorrected.map(|count| {
            format!("{count} memory errors since the driver was loaded could not be corrected: what ran on it then may have failed or computed wrongly")
        });
        let pending = self.pending.then(|| {
            "a bad part of its memory is set aside at the next reset: `nvidia-smi --gpu-reset`, with this node stopped, or a restart of the machine".to_owned()
        });
        let worries: Vec<_> = errors.into_iter().chain(pending).collect();
        (!worries.is_empty()).then(|| worries.join("; "))
    }
}

fn number(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(), // Negative is no count.
        SampleValue::F64(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_pages_and_rows_are_added_and_none_stays_none() {
        let none = Health::from_fields([None; 8]);
        assert_eq!(none, Health::default());
        let rows = Health::from_fields([
            None,
            None,
            None,
            Some(1),
            Some(2),
            Some(1),
            Some(0),
            Some(0),
        ]);
        assert_eq!((rows.retired, rows.pending), (Some(3), true));
        assert_eq!(rows.problem(), None);
        assert!(rows.worries().is_some_and(|text| text.contains("reset")));
    }

    #[test]
    fn card_that_the_driver_wants_reset_is_not_used() {
        let mut health = Health {
            remap_failed: true,
            ..Health::default()
        };
        assert!(
            health
                .problem()
                .is_some_and(|text| text.contains("exchanged"))
        );
        health.recovery_action = 2;
        assert!(
            health
                .problem()
                .is_some_and(|text| text.contains("restart"))
        );
        health = Health {
            recovery_action: 3,
            ..Health::default()
        };
        assert_eq!(health.problem(), None, "peer to peer only");
    }
}
