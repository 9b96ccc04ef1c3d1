//! Amounts as people write them.

/// Thousandths as a number of whole things: `4`, `0.5`.
pub(crate) fn whole(milli: u64) -> String {
    match milli % 1_000 {
        0 => (milli / 1_000).to_string(),
        part => format!("{}.{part:03}", milli / 1_000)
            .trim_end_matches('0')
            .to_owned(),
    }
}

/// Thousandths of cores: `1 cpu`, `2.5 cpus`.
pub(crate) fn cpus(milli: u64) -> String {
    match milli {
        1_000 => "1 cpu".to_owned(),
        _ => format!("{} cpus", whole(milli)),
    }
}

/// Bytes in GiB, or in MiB below one, with one decimal.
pub(crate) fn bytes(bytes: u64) -> String {
    let (unit, size) = if bytes >= 1 << 30 {
        ("GiB", 1_u64 << 30)
    } else {
        ("MiB", 1 << 20)
    };
    let tenths = bytes / size * 10 + bytes % size * 10 / size;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(
            (cpus(1_000), cpus(2_500), cpus(0)),
            (
                "1 cpu".to_owned(),
                "2.5 cpus".to_owned(),
                "0 cpus".to_owned()
            )
        );
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(200 << 20), "200.0 MiB");
        assert_eq!(bytes(u64::MAX), "17179869183.9 GiB");
    }
}
