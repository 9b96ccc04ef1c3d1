//! Invariant 6, first half: nothing over 64 KiB of an experiment enters the log.

use types::codec;

use crate::seen::Seen;

/// 64 KiB and its wrapping: author, request, header.
const MAX_ENTRY_BYTES: usize = (64 << 10) + 4_096;

pub(crate) fn see(seen: &Seen<'_>) -> Result<(), String> {
    let Seen::Applied(entry) = seen else {
        return Ok(());
    };
    let Some((command, _)) = entry.command else {
        return Ok(());
    };
    let bytes = codec::encode(command).len();
    if bytes > MAX_ENTRY_BYTES {
        return Err(format!(
            "invariant 6: entry {} has {bytes} bytes",
            entry.index
        ));
    }
    Ok(())
}
