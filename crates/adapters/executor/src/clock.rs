//! The clocks: boot time for leases, wall clock for people.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use types::Timestamp;

/// Milliseconds of `CLOCK_BOOTTIME`: since the kernel started, sleep included; never jumps.
#[must_use]
pub fn boottime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is ever negative: it is time since an event in the past.
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds * 1_000 + nanoseconds / 1_000_000
}

/// Processor time of this thread in microseconds: what something cost, however long it had to wait for a processor.
pub(crate) fn thread_cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // As above.
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds * 1_000_000 + nanoseconds / 1_000
}

/// The kernel's boot id, hashed to 64 bits: another one proves that everything that ran before is gone.
/// 0 where the kernel does not tell it (some containers): never proof of anything.
#[must_use]
pub fn boot_id() -> u64 {
    // Not readable means not known: 0, as documented.
    let Ok(text) = std::fs::read("/proc/sys/kernel/random/boot_id") else {
        return 0;
    };
    let hash = blake3::hash(text.trim_ascii());
    let bytes = hash.as_bytes().iter().take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Wall clock, for people: may jump.
pub(crate) fn wall_clock() -> Timestamp {
    // Before 1970 the clock is plainly wrong; 0 says so better than a failure of the attempt.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
