//! Metrics of experiments: reported in lines, read at any node, reduced where they are many.

use service::view::{ErrorView, MetricsView, PointsView, SeriesView};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

/// Points of a long run. A million are in the tests of the part that reduces them.
const POINTS: u64 = 100_000;

fn metrics_of(node: &Node, id: &str) -> MetricsView {
    node.ask(&["metrics", id])
}

fn named<'a>(view: &'a MetricsView, name: &str) -> &'a PointsView {
    let found = view.metrics.iter().find(|metric| metric.name == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {view:?}"));
    &found.points
}

#[test]
fn lines_of_both_kinds_are_metrics_live_and_after_the_end_at_any_node() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    let release = lab.path().join("release");
    let script = format!(
        r#"echo 'metric: loss=0.5 acc=0.1 step=1'; echo '{{"step": 2, "loss": 0.25, "val": {{"acc": 0.2}}}}'
           echo '{{"level": "info", "loss": 7}}'; echo 'metric: loss=nan step=3'; echo ready
           while ! test -e {}; do sleep 0.05; done; echo '{{"step": 4, "loss": 0.125}}'; exit 1"#,
        release.display()
    );
    let id = a.submit(&["--", "sh", "-c", &script]);
    let live = wait_until(PATIENCE, "the metrics come while it runs", || {
        let view: MetricsView = metrics_of(&b, &id);
        (view.metrics.len() == 3).then_some(view)
    });
    assert_eq!(a.show(&id).summary.state, "running");
    wait_until(PATIENCE, "all of the first three", || {
        (named(&metrics_of(&b, &id), "loss").count == 3).then_some(())
    });
    assert_eq!(
        (named(&live, "val/acc").count, named(&live, "val/acc").last),
        (1, 0.2)
    );
    std::fs::write(&release, "").unwrap();
    a.wait_end(&id);
    for node in [&a, &b] {
        let view = metrics_of(node, &id);
        let loss = named(&view, "loss");
        assert_eq!(
            (loss.count, loss.nans, loss.last),
            (4, 1, 0.125),
            "{loss:?}"
        );
        assert_eq!((loss.min, loss.min_step, loss.max), (0.125, 4, 0.5));
        println!("{}", node.muster(&["metrics", &id]).success());
        println!("{}", node.muster(&["metrics", &id, "loss"]).success());
        let csv = node.muster(&["metrics", &id, "loss", "--csv"]).success();
        let steps: Vec<&str> = csv
            .lines()
            .map(|line| line.split(',').next().unwrap())
            .collect();
        assert_eq!(steps, ["first_step", "1", "2", "3", "4"]);
        let part: SeriesView = node.ask(&["metrics", &id, "loss", "--from", "2", "--to", "2"]);
        let only = &part.points[0];
        assert_eq!((part.total, part.points.len(), only.last), (4, 1, 0.25));
    }
    let refused = b.muster(&["metrics", &id, "los"]).failure(1);
    assert!(
        refused.contains(&format!("muster metrics {id}")),
        "{refused}"
    );
    let path = format!("/api/v1/experiments/{id}/metrics/series?name=loss&points=1");
    let (status, body) = b.get(&path);
    let error: ErrorView = serde_json::from_str(&body).unwrap();
    assert_eq!((status, error.code.as_str()), (400, "bad-points"));
    let waiting = a.submit(&["--cpus", "1000", "--", "true"]);
    let refused = a.muster(&["metrics", &waiting]).failure(1);
    assert!(refused.contains("muster why"), "{refused}");
}

#[test]
fn many_points_come_as_few_with_their_spikes() {
    let lab = Lab::new();
    let a = lab.one();
    let script = format!(
        "awk 'BEGIN {{ for (i = 0; i < {POINTS}; i++) {{
           v = 1; if (i == 12345) v = -99; if (i == 67890) v = 99; print \"metric: loss=\" v \" step=\" i }} }}'"
    );
    let id = a.submit(&["--", "sh", "-c", &script]);
    a.wait_end(&id);
    let series: SeriesView = a.ask(&["metrics", &id, "loss", "--points", "50"]);
    assert_eq!(series.total, POINTS);
    assert!(
        (26..=50).contains(&series.points.len()),
        "{}",
        series.points.len()
    );
    let counted: u64 = series.points.iter().map(|points| points.count).sum();
    assert_eq!(counted, POINTS);
    let spike = |value: f64, step: i64| {
        let mut points = series.points.iter();
        points.any(|one| {
            (one.min, one.min_step) == (value, step) || (one.max, one.max_step) == (value, step)
        })
    };
    assert!(spike(-99.0, 12_345) && spike(99.0, 67_890), "{series:?}");
    let near: SeriesView = a.ask(&["metrics", &id, "loss", "--from", "67889", "--to", "67891"]);
    let values: Vec<f64> = near.points.iter().map(|points| points.last).collect();
    assert_eq!(values, [1.0, 99.0, 1.0]);
}

#[test]
fn metrics_outlive_a_flood_of_output_and_names_without_end_are_cut_off() {
    let lab = Lab::new();
    let a = lab.one();
    let script = "yes 'a line that nobody will ever read' | head -c 120000000
        awk 'BEGIN { for (i = 0; i < 3000; i++) print \"metric: m\" i \"=1 step=1\" }'
        echo 'metric: m7=2 step=2'";
    let id = a.submit(&["--", "sh", "-c", script]);
    let ended = a.wait_end(&id);
    assert_eq!(ended.summary.state, "finished", "{ended:?}");
    let view = metrics_of(&a, &id);
    assert_eq!(view.metrics.len(), 2_000);
    let known = named(&view, "m7");
    assert_eq!((known.count, known.last), (2, 2.0), "known names go on");
    let said = a.muster(&["logs", &id]).err;
    assert!(
        said.contains("metrics of more than 2000 names"),
        "{} bytes",
        said.len()
    );
    assert!(
        said.contains("of output were dropped here"),
        "{} bytes",
        said.len()
    );
}

/// A job that reports by requests: `POINTS` to itself, then what its arguments say.
const REPORTER: &str = r#"
import json, os, sys, urllib.request
def report(experiment, token, points):
    body = json.dumps({"points": points}).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + token}
    url = os.environ["MUSTER_API"] + "/experiments/" + experiment + "/metrics"
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return str(error.code) + " " + json.loads(error.read())["code"]
token = os.environ["MUSTER_TOKEN"]
points = [{"name": "loss", "step": i, "value": 1.0 / (i + 1)} for i in range(1000)]
print("own", report("self", token, points))
print("again", report(os.environ["MUSTER_EXPERIMENT_ID"], token, [{"name": "acc", "value": "NaN"}]))
print("other", report(sys.argv[1], token, points[:1]))
print("forged", report("self", token[:-1] + ("0" if token[-1] != "0" else "1"), points[:1]))
print("none", report("self", token, []))
print("bad", report("self", token, [{"name": "", "value": 1}]))
print("ready", flush=True)
import time
while not os.path.exists(sys.argv[2]): time.sleep(0.05)
"#;

#[test]
fn a_job_reports_by_requests_with_its_own_token_and_its_owner_at_any_node() {
    let lab = Lab::new();
    let [a, b, _c] = lab.three();
    let release = lab.path().join("release");
    let other = a.submit(&["--", "sleep", "1000"]);
    a.wait_state(&other, &["running"]);
    let command = ["--constraint", "machine=a", "--", "python3", "-c", REPORTER];
    let release_text = release.to_str().unwrap();
    let id = a.submit(&[&command[..], &[&other, release_text]].concat());
    let said = wait_until(PATIENCE, "it has reported", || {
        let said = a.logs(&id);
        said.contains("ready").then_some(said)
    });
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "own 200",
        "again 200",
        "other 403 not-allowed",
        "forged 401 bad-token",
        "none 400 bad-points",
        "bad 400 bad-name",
        "ready",
    ];
    assert_eq!(lines, expected);
    // Its owner, through a node that does not run it.
    let path = format!("/api/v1/experiments/{id}/metrics");
    let point = r#"{"points":[{"name":"loss","step":1000,"value":7}]}"#;
    let (status, body) = b.post(&path, point);
    assert_eq!(status, 200, "{body}");
    let view = wait_until(PATIENCE, "all points can be read", || {
        let view = metrics_of(&b, &id);
        (named(&view, "loss").count == 1_001).then_some(view)
    });
    let (loss, acc) = (named(&view, "loss"), named(&view, "acc"));
    assert_eq!((loss.max, loss.max_step, loss.min), (7.0, 1_000, 0.001));
    assert_eq!((acc.count, acc.nans, acc.last.is_nan()), (1, 1, true));
    std::fs::write(&release, "").unwrap();
    a.wait_end(&id);
    let (status, body) = b.post(&path, point);
    let error: ErrorView = serde_json::from_str(&body).unwrap();
    assert_eq!((status, error.code.as_str()), (409, "not-running"));
    assert_eq!(named(&metrics_of(&b, &id), "loss").count, 1_001);
    a.muster(&["stop", &other]).success();
}
