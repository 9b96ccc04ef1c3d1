//! Tests that take more than this machine permits.

use std::io::Write as _;

/// `required`: a test that would be skipped fails.
const SWITCH: &str = "E2E";

/// Says, past the capture of the test runner, that this test is skipped and why.
pub(crate) fn skip(why: &str) {
    let required = std::env::var(SWITCH).is_ok_and(|wish| wish == "required");
    assert!(!required, "{SWITCH}=required, but {why}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Nobody may be reading; a test does not fail for it.
    writeln!(std::io::stderr(), "e2e: skipped {test}: {why}").unwrap_or_default();
}
