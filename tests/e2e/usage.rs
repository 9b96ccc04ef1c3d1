//! What an experiment used, read from any node, while it runs and for good.

use service::view::SamplesView;

use crate::harness::{FAR, Lab, PATIENCE, wait_until};

/// Burns a processor with 64 MiB held until a file is there, then writes 20 MiB.
fn hungry(stop: &std::path::Path) -> String {
    format!(
        "import os
held = bytearray(os.urandom(1 << 20) * 64)
print('ready', flush=True)
while not os.path.exists('{}'):
    sum(range(10000))
with open('out', 'wb') as out:
    out.write(held[:20 << 20])
    os.fsync(out.fileno())
",
        stop.display()
    )
}

#[test]
fn what_an_experiment_used_is_told_by_every_node_while_it_runs_and_for_good() {
    let lab = Lab::new();
    let nodes = lab.three();
    let [a, b, _c] = &nodes;
    let stop = lab.path().join("stop");
    let script = hungry(&stop);
    let id = a.submit(&[
        "--constraint",
        "machine=c",
        "--memory",
        "512MiB",
        "--",
        "python3",
        "-c",
        &script,
    ]);
    let path = format!("/api/v1/experiments/{id}/samples?points=2");
    let live = wait_until(PATIENCE, "samples while it runs", || {
        let (status, body) = b.get(&path);
        let view: SamplesView = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
        (view.summary.as_ref()?.samples >= 3).then_some(view)
    });
    assert_eq!((live.attempt, live.ended_at), (1, None));
    assert_eq!(live.points.len(), 2, "{live:?}");
    std::fs::write(&stop, "").unwrap();
    a.wait_end(&id);
    for node in &nodes {
        let view: SamplesView = node.ask(&["usage", &id]);
        let summary = view.summary.expect("samples stay");
        assert!(view.ended_at.is_some());
        assert!(summary.samples >= live.summary.as_ref().unwrap().samples);
        assert!(summary.peak_memory_bytes > 64 << 20, "{summary:?}");
        assert!(summary.cpu_milli_mean > 50, "{summary:?}");
        assert!(
            summary.disk_written_bytes.unwrap() > 19 << 20,
            "{summary:?}"
        );
        assert!(summary.network_is_hosts && summary.network_sent_bytes.is_some());
        assert_eq!(summary.requested.memory_bytes, 512 << 20);
        assert_eq!(summary.peak_vram_bytes, None);
        let page = node.muster(&["usage", &id]).success();
        println!("{page}");
        assert!(
            page.contains("of 512 MiB") && page.contains("disk write") && page.contains('█'),
            "{page}"
        );
        let page = node.muster(&["show", &id]).success();
        println!("{page}");
        assert!(
            page.contains("Resources of attempt 1")
                && page.contains("network of the whole machine"),
            "{page}"
        );
    }
}

#[test]
fn who_asks_for_what_there_is_not_is_told_what_to_do() {
    let lab = Lab::new();
    let a = lab.one();
    let said = a.muster(&["usage", "nothing"]).failure(1);
    assert!(said.contains("muster ls --all"), "{said}");
    let far = a.submit(&FAR);
    let said = a.muster(&["usage", &far]).failure(1);
    assert!(said.contains("muster why"), "{said}");
    let short = a.submit(&["--", "true"]);
    a.wait_end(&short);
    assert!(a.muster(&["usage", &short]).success().contains("1 sample"));
    let said = a.muster(&["usage", &short, "--attempt", "9"]).failure(1);
    assert!(said.contains("attempts 1 to 1"), "{said}");
    let path = format!("/api/v1/experiments/{short}/samples?points=2001");
    let (status, body) = a.get(&path);
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("bad-points"), "{body}");
}
