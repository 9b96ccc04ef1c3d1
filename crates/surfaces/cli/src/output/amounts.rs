//! Amounts and times as people write them.

use types::DurationMs;

/// Bytes in the largest binary unit, with one decimal where there is one: `512 MiB`, `1.5 GiB`.
pub(crate) fn bytes(amount: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if amount >> shift > 0 {
            return format!("{} {unit}", tenths(amount, shift));
        }
    }
    format!("{amount} B")
}

/// A used and a total amount in the unit of the total: `0.5/4 GiB`.
pub(crate) fn bytes_of(used: u64, total: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if total >> shift > 0 {
            return format!("{}/{} {unit}", tenths(used, shift), tenths(total, shift));
        }
    }
    format!("{used}/{total} B")
}

fn tenths(amount: u64, shift: u32) -> String {
    let tenths = (u128::from(amount) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{}", tenths / 10),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// Thousandths as a number of whole things: `4`, `0.5`.
pub(crate) fn milli(amount: u64) -> String {
    match amount % 1_000 {
        0 => format!("{}", amount / 1_000),
        part => {
            let text = format!("{}.{part:03}", amount / 1_000);
            text.trim_end_matches('0').to_owned()
        }
    }
}

/// How long ago: `3 min ago`.
pub(crate) fn ago(now_ms: u64, at_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(at_ms) / 1_000;
    match seconds {
        0 => "just now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A span: `3 min 20 s`.
pub(crate) fn span(milliseconds: u64) -> String {
    DurationMs(milliseconds).to_string()
}

/// The moment in UTC to the millisecond, as logs show it.
pub(crate) fn moment(at_ms: u64) -> String {
    let time = i64::try_from(at_ms)
        .ok()
        .and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    match time {
        Some(time) => format!("{time:.3}"),
        None => format!("{at_ms} ms"), // after the year 9999
    }
}

/// Text of others without control characters, so that a name cannot steer the terminal.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Words of a command line with quotes where a shell would need them.
pub(crate) fn command_line(words: &[String]) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    let quoted = |word: &String| match word.chars().all(safe) && !word.is_empty() {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words: Vec<String> = words.iter().map(quoted).collect();
    plain(&words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!(bytes_of(1 << 29, 4 << 30), "0.5/4 GiB");
        assert_eq!(milli(4_000), "4");
        assert_eq!(milli(250), "0.25");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(ago(200_000, 0), "3 min ago");
        assert_eq!(ago(0, 5_000), "just now");
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn command_lines_are_quoted_and_harmless() {
        let words = ["sh", "-c", "echo it's", "", "\u{1b}[31m"].map(str::to_owned);
        assert_eq!(command_line(&words), r"sh -c 'echo it'\''s' '' '�[31m'");
    }
}
