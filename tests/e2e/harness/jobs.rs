//! Experiments that tests submit, and what their output must look like.

use std::path::Path;

use super::{Node, PATIENCE, wait_until};

/// An experiment that no node here could ever run.
pub(crate) const FAR: [&str; 4] = ["--cpus", "1000", "--", "true"];

/// Prints its process id, then numbers until a file is there.
pub(crate) fn counting(stop: &Path) -> String {
    format!(
        "echo pid $$; i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end",
        stop.display()
    )
}

/// Reads the output of [`counting`]: the process id and how far it came. Fails on a lost or repeated line.
pub(crate) fn counted(output: &str) -> (i32, u64) {
    let mut lines = output.lines();
    let pid = lines.next().and_then(|line| line.strip_prefix("pid "));
    let pid = pid.expect("the first line").parse().expect("a process id");
    let mut last = 0;
    for line in lines {
        if line == "end" {
            break;
        }
        last += 1;
        assert_eq!(line, last.to_string(), "{output}");
    }
    (pid, last)
}

/// Waits until [`counting`] has come further, seen from a node; says how far.
pub(crate) fn wait_lines(node: &Node, experiment: &str, more_than: u64) -> u64 {
    wait_until(PATIENCE, "the experiment goes on", || {
        let output = node.muster(&["logs", experiment]);
        // The node that has the output may just be gone.
        if output.code != 0 || output.out.is_empty() {
            return None;
        }
        let (_, lines) = counted(&output.out);
        (lines > more_than).then_some(lines)
    })
}
