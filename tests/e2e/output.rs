//! Output that comes fast, comes in floods, and comes without lines.

use std::fs;
use std::path::Path;

use crate::harness::{
    Lab, PATIENCE, counted, entries, leader_and_others, read_lossy, wait_lines, wait_until,
};

/// Lines that the fast job prints at least.
const FAST_LINES: u64 = 10_000;
/// Bytes without a line: more than is kept at once.
const LINELESS_BYTES: u64 = 200_000_000;
/// What a flood may leave on the disk of its machine: what is kept at once, a minute at the rate, and the frames.
const MOST_KEPT_BYTES: u64 = 96 << 20;
/// Resident memory of a node that carries a flood: it reads and sends in pieces.
const MOST_RESIDENT_KIB: u64 = 400 << 10;

fn bytes_below(directory: &Path) -> u64 {
    let all = entries(directory).into_iter();
    all.map(|path| {
        if path.is_dir() {
            bytes_below(&path)
        } else {
            fs::metadata(&path).map_or(0, |facts| facts.len()) // sealed and moved meanwhile
        }
    })
    .sum()
}

fn resident_kib(process: u32) -> u64 {
    let status = read_lossy(format!("/proc/{process}/status").as_ref());
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect(&status)
}

#[test]
fn a_node_killed_twice_under_fast_output_loses_no_line() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    let stop = lab.path().join("stop");
    let script = format!(
        "echo pid $$; i=0; while [ $i -lt {FAST_LINES} ] || [ ! -e {} ]; do
           j=0; while [ $j -lt 250 ]; do i=$((i+1)); j=$((j+1)); echo $i; done; sleep 0.1; done; echo end",
        stop.display()
    );
    let job = a.submit(&[
        "--constraint",
        "machine=b",
        "--lease",
        "60s",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    let mut before = wait_lines(&a, &job, 500);
    for _ in 0..2 {
        b.kill();
        b.up(&[]);
        before = wait_lines(&a, &job, before + 2_000);
    }
    fs::write(&stop, "").unwrap();
    let detail = a.wait_end(&job);
    assert_eq!(
        (detail.summary.state.as_str(), detail.attempts.len()),
        ("finished", 1),
        "{detail:?}"
    );
    for node in [&a, &b] {
        let logs = wait_until(PATIENCE, "the whole output is there", || {
            let output = node.muster(&["logs", &job]).out;
            output.ends_with("end\n").then_some(output)
        });
        let (_, lines) = counted(&logs);
        assert!(lines >= FAST_LINES && lines >= before, "{lines}");
    }
}

#[test]
fn a_flood_of_output_is_cut_and_marked_and_costs_no_election() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, _]) = leader_and_others(&nodes);
    let term = first.cluster().term;
    let constraint = format!("machine={}", leader.name);
    let script = "timeout 8 yes 'a line that nobody will ever read'; echo; echo the last words";
    let job = first.submit(&["--constraint", &constraint, "--", "sh", "-c", script]);
    let ended = first.wait_end(&job);
    assert_eq!(ended.attempts.len(), 1, "{ended:?}");
    assert_eq!(first.cluster().term, term, "nobody was elected");
    let kept = bytes_below(&leader.data());
    assert!(
        kept < MOST_KEPT_BYTES * 2,
        "{kept} bytes on the disk, blobs included"
    );
    let resident = resident_kib(leader.process_id());
    assert!(resident < MOST_RESIDENT_KIB, "{resident} KiB");
    let marked = wait_until(PATIENCE, "the output says what was dropped", || {
        let output = first.muster(&["logs", &job]);
        let text = output.out + &output.err;
        text.contains("of output were dropped here").then_some(text)
    });
    assert!(marked.len() > 60 << 20, "the beginning was kept");
}

#[test]
fn output_without_a_line_end_is_kept_in_pieces_and_bounded() {
    let lab = Lab::new();
    let node = lab.one();
    let script = format!("head -c {LINELESS_BYTES} /dev/zero | tr '\\0' x");
    let job = node.submit(&["--", "sh", "-c", &script]);
    let ended = node.wait_end(&job);
    assert_eq!(ended.summary.state, "finished", "{ended:?}");
    let resident = resident_kib(node.process_id());
    assert!(resident < MOST_RESIDENT_KIB, "{resident} KiB");
    let output = node.muster(&["logs", &job]);
    let text = output.out + &output.err;
    assert!(
        text.contains("of output were dropped here"),
        "{} bytes",
        text.len()
    );
    let kept = text.bytes().filter(|byte| *byte == b'x').count() as u64;
    assert!((60 << 20..LINELESS_BYTES).contains(&kept), "{kept} bytes");
}

#[test]
fn the_last_lines_of_a_long_output_are_read_from_its_end() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [other, _]) = leader_and_others(&nodes);
    let release = lab.path().join("release");
    // 30 MB: the lines before the last are in sealed segments.
    let script = format!(
        "awk 'BEGIN {{ for (i = 1; i <= 300000; i++) printf \"%08d %090d\\n\", i, 0 }}'; echo ready
         while ! test -e {}; do sleep 0.05; done; echo last but one; printf 'no end'",
        release.display()
    );
    let job = leader.submit(&["--", "sh", "-c", &script]);
    let tail = |lines: &str| other.muster(&["logs", &job, "--tail", lines]).success();
    wait_until(PATIENCE, "it has written", || {
        (tail("1") == "ready\n").then_some(())
    });
    let number = |line: &str| line.split(' ').next().unwrap().to_owned();
    let live = tail("3");
    let lines: Vec<String> = live.lines().map(number).collect();
    assert_eq!(lines, ["00299999", "00300000", "ready"]);
    // A follower starts there and goes on to the end.
    let out = lab.path().join("followed");
    let mut follower = leader
        .client(&["logs", &job, "--tail", "1", "-f"])
        .stdout(fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    wait_until(PATIENCE, "the follower shows the last line", || {
        (read_lossy(&out) == "ready\n").then_some(())
    });
    fs::write(&release, "").unwrap();
    leader.wait_end(&job);
    wait_until(PATIENCE, "the follower ends", || {
        follower.try_wait().unwrap()
    });
    assert_eq!(read_lossy(&out), "ready\nlast but one\nno end");
    assert_eq!(tail("2"), "last but one\nno end");
    let many = tail("200004");
    assert_eq!(many.lines().next().map(number).unwrap(), "00100000");
    assert_eq!(many.lines().count(), 200_004);
    let none = other.muster(&["logs", &job, "--tail", "0"]).failure(1);
    assert!(none.contains("ask for 1 to 1000000"), "{none}");
}
