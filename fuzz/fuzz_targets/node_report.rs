//! What another node says of itself: taken in or refused, and the view can be asked about it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use membership::View;
use types::{NodeReport, Timestamp, codec};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = codec::decode::<NodeReport>(bytes, network::MAX_REPORT_BYTES) {
        let node = report.node.clone();
        let mut view = View::default();
        view.observe(report.clone(), Timestamp(1_000));
        view.observe(report, Timestamp(2_000));
        std::hint::black_box(view.health(&node, Timestamp(u64::MAX)));
    }
});
