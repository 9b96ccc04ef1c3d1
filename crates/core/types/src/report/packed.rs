//! The GPUs of a report on the wire: each model once, uuids as their 16 bytes, so that eight of them fit into 1 KiB.

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::GpuReport;

#[derive(Serialize, Deserialize)]
struct Packed {
    models: Vec<String>,
    gpus: Vec<PackedGpu>,
}

#[derive(Serialize, Deserialize)]
struct PackedGpu {
    uuid: PackedUuid,
    /// Place in the list of models.
    model: u8,
    vram_total_bytes: u64,
    vram_used_bytes: u64,
    vram_foreign_bytes: u64,
    utilisation_percent: u8,
    links: u32,
    numa_node: Option<u8>,
}

#[derive(Serialize, Deserialize)]
enum PackedUuid {
    /// `GPU-` and a uuid.
    Gpu([u8; 16]),
    /// `MIG-` and a uuid.
    Instance([u8; 16]),
    /// Anything else, as it is.
    Other(String),
}

const GPU: &str = "GPU-";
const INSTANCE: &str = "MIG-";
/// Where the hyphens of a uuid stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_LENGTH: usize = 36;

impl PackedUuid {
    fn pack(text: &str) -> Self {
        let bytes = |prefix| text.strip_prefix(prefix).and_then(parse);
        if let Some(bytes) = bytes(GPU) {
            Self::Gpu(bytes)
        } else if let Some(bytes) = bytes(INSTANCE) {
            Self::Instance(bytes)
        } else {
            Self::Other(text.to_owned())
        }
    }

    fn unpack(self) -> String {
        match self {
            Self::Gpu(bytes) => format!("{GPU}{}", print(bytes)),
            Self::Instance(bytes) => format!("{INSTANCE}{}", print(bytes)),
            Self::Other(text) => text,
        }
    }
}

/// The bytes of a uuid in the one form that [`print`] writes.
fn parse(text: &str) -> Option<[u8; 16]> {
    if text.len() != UUID_LENGTH || HYPHENS.iter().any(|at| text.as_bytes()[*at] != b'-') {
        return None;
    }
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    let bytes = number.to_be_bytes();
    (print(bytes) == text).then_some(bytes)
}

fn print(bytes: [u8; 16]) -> String {
    let mut text = format!("{:032x}", u128::from_be_bytes(bytes));
    for at in HYPHENS {
        text.insert(at, '-');
    }
    text
}

pub(super) fn serialize<S: Serializer>(
    gpus: &[GpuReport],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut models: Vec<String> = Vec::new();
    let mut packed = Vec::with_capacity(gpus.len());
    for gpu in gpus {
        let known = models.iter().position(|model| *model == gpu.model);
        let model = known.unwrap_or_else(|| {
            models.push(gpu.model.clone());
            models.len() - 1
        });
        packed.push(PackedGpu {
            uuid: PackedUuid::pack(&gpu.uuid),
            model: u8::try_from(model).map_err(|_many| S::Error::custom("over 256 GPU models"))?,
            vram_total_bytes: gpu.vram_total_bytes,
            vram_used_bytes: gpu.vram_used_bytes,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            utilisation_percent: gpu.utilisation_percent,
            links: gpu.links,
            numa_node: gpu.numa_node,
        });
    }
    let gpus = packed;
    Packed { models, gpus }.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<GpuReport>, D::Error> {
    let Packed { models, gpus } = Packed::deserialize(deserializer)?;
    let unpack = |gpu: PackedGpu| {
        let model = models.get(usize::from(gpu.model));
        Ok(GpuReport {
            uuid: gpu.uuid.unpack(),
            model: model
                .ok_or_else(|| D::Error::custom("a GPU of an unknown model"))?
                .clone(),
            vram_total_bytes: gpu.vram_total_bytes,
            vram_used_bytes: gpu.vram_used_bytes,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            utilisation_percent: gpu.utilisation_percent,
            links: gpu.links,
            numa_node: gpu.numa_node,
        })
    };
    gpus.into_iter().map(unpack).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{NodeReport, Timestamp, codec};

    fn gpu(uuid: String, model: String) -> GpuReport {
        GpuReport {
            uuid,
            model,
            vram_total_bytes: 80 << 30,
            vram_used_bytes: 5 << 30,
            vram_foreign_bytes: 1 << 30,
            utilisation_percent: 97,
            links: 0xfe,
            numa_node: Some(1),
        }
    }

    fn report(gpus: Vec<GpuReport>) -> NodeReport {
        NodeReport {
            node: "12D3KooWQBztvqFshDj8p3jra2eNVJEHe5CJy5nHMwB9xhwG57qG"
                .parse()
                .expect("a peer id"),
            node_started_at: Timestamp(1),
            sequence: 1,
            taken_at: Timestamp(2),
            boot_id: 3,
            cpu_milli: 192_000,
            cpu_busy_milli: 10_000,
            memory_bytes: 2 << 40,
            memory_used_bytes: 1 << 40,
            disk_free_bytes: 1 << 40,
            gpus,
            declared: Vec::new(),
            warnings: vec!["the disk of /var/lib/muster is nearly full (under 2048 MiB free): new work is refused until space is freed".to_owned()],
            refuses_work: true,
        }
    }

    #[test]
    fn eight_gpus_and_a_warning_fit_into_1_kib() {
        let eight = (0..8)
            .map(|number| {
                let uuid = format!("GPU-5a1c0b7e-9f3d-4e21-8c55-0123456789a{number}");
                gpu(uuid, "NVIDIA H100 80GB HBM3".to_owned())
            })
            .collect();
        let bytes = codec::encode(&report(eight));
        assert!(bytes.len() <= 1_024, "{} bytes", bytes.len());
    }

    #[test]
    fn a_model_that_is_not_listed_is_refused() {
        let one = report(vec![gpu("declared-0".to_owned(), "H100".to_owned())]);
        let mut bytes = codec::encode(&one);
        let name = bytes
            .windows(10)
            .position(|window| window == b"declared-0")
            .expect("it is in there");
        bytes[name + 10] = 1;
        let checksum = crc32fast::hash(&bytes[codec::HEADER_BYTES..]);
        bytes[1..codec::HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let read = codec::decode::<NodeReport>(&bytes, codec::MAX_MESSAGE_BYTES);
        assert!(matches!(read, Err(codec::Error::Payload(_))), "{read:?}");
    }

    proptest! {
        #[test]
        fn all_uuids_and_models_come_back(
            gpus in prop::collection::vec(
                ("(GPU-|MIG-|gpu-|)[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f+]{12}|.{0,40}", "[A-D]{0,2}"),
                0..20,
            )
        ) {
            let gpus = gpus.into_iter().map(|(uuid, model)| gpu(uuid, model)).collect();
            let told = report(gpus);
            let read: NodeReport = codec::decode(&codec::encode(&told), codec::MAX_MESSAGE_BYTES).unwrap();
            prop_assert_eq!(read, told);
        }
    }
}
