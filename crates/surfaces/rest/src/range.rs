//! Ranges of a download (RFC 9110, 14): one range of bytes; what is no such range is answered with the whole.

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    All,
    /// From the first byte up to and with the last.
    Part {
        /// First.
        first: u64,
        /// Last.
        last: u64,
    },
    /// Nothing of the file is in the range.
    Beyond,
}

/// What the value of a `Range` header asks of a file of this length.
pub(crate) fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some(range) = header.and_then(|header| header.strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = range.split_once('-') else {
        return Wanted::All;
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(last)) => {
            let last = last.unwrap_or(u64::MAX);
            match (first <= last, first < length) {
                (false, _) => Wanted::All,
                (true, false) => Wanted::Beyond,
                (true, true) => Wanted::Part {
                    first,
                    last: last.min(length - 1),
                },
            }
        }
        (Some(None), Some(Some(count))) if count > 0 && length > 0 => Wanted::Part {
            first: length.saturating_sub(count),
            last: length - 1,
        },
        (Some(None), Some(Some(_))) => Wanted::Beyond,
        _ => Wanted::All,
    }
}

/// A number, nothing, or something else.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Some(text.parse().unwrap_or(u64::MAX))) // More digits than any file has bytes.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_the_rest_is_the_whole() {
        let part = |first, last| Wanted::Part { first, last };
        let cases = [
            ("bytes=0-9", part(0, 9)),
            ("bytes=90-", part(90, 99)),
            ("bytes=90-1000", part(90, 99)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=100-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=99999999999999999999999-", Wanted::Beyond),
            ("bytes=9-3", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=-", Wanted::All),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(Some(header), 100), expected, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::All);
        assert_eq!(wanted(Some("bytes=-5"), 0), Wanted::Beyond);
    }
}
