use super::*;
use rest::wire::RequestedView;

const GIB: u64 = 1 << 30;

fn view() -> SamplesView {
    let point = |cpu_milli, memory_bytes, percent: Option<u32>| UsagePoint {
        span_ms: 5_000,
        cpu_milli,
        memory_bytes,
        gpu_utilisation_percent: percent,
        vram_bytes: percent.map(|_percent| 20 * GIB),
        network_received_bytes_per_second: Some(1_024),
        network_sent_bytes_per_second: Some(0),
        processes: 2,
        threads: 9,
        ..UsagePoint::default()
    };
    SamplesView {
        experiment: "0a1b2c3d".into(),
        rank: 0,
        attempt: 2,
        started_at: Some(0),
        ended_at: None,
        findings: vec![],
        points: vec![
            point(250, GIB, None),
            point(2_000, 2 * GIB, Some(80)),
            point(1_000, 3 * GIB, Some(0)),
        ],
        summary: Some(UsageSummary {
            samples: 3,
            span_ms: 15_000,
            requested: RequestedView {
                cpu_milli: 2_000,
                memory_bytes: 4 * GIB,
                gpu_milli: 1_000,
                vram_bytes: 40 * GIB,
            },
            peak_memory_bytes: 3 * GIB,
            peak_vram_bytes: Some(20 * GIB),
            cpu_milli_mean: 1_083,
            cpu_milli_max: 2_100,
            gpu_utilisation_percent_mean: Some(40),
            gpu_utilisation_percent_max: Some(80),
            processes_max: 2,
            threads_max: 9,
            disk_read_bytes: Some(0),
            disk_written_bytes: Some(5 << 20),
            network_received_bytes: Some(15 << 10),
            network_sent_bytes: Some(0),
            network_is_hosts: true,
        }),
        warnings: Vec::new(),
    }
}

#[test]
fn totals_stand_beside_what_was_asked_for_and_figures_over_time() {
    let text = usage(&view(), &Look::plain_at(0));
    let expected = "\
0a1b2c3d  attempt 2  3 samples over 15 s
  memory        3 GiB of 4 GiB (75 %) at most
  cpu           1.08 of 2 cores (54 %) on average, 2.1 at most
  gpu           0.4 of 1 gpus (40 %) on average, 0.8 at most
  vram          20 GiB of 40 GiB (50 %) at most
  disk          0 B read, 5 MiB written
  network       15 KiB received, 0 B sent, network of the whole machine

FIGURE      OVER TIME           MIN          MEAN           MAX
cpu         ▂█▅                0.25          1.08           2.1
memory      ▄▆█               1 GiB         2 GiB         3 GiB
gpu          █▁                 0 %          40 %          80 %
vram         ██              20 GiB        20 GiB        20 GiB
net in      ███             1 KiB/s       1 KiB/s       1 KiB/s
net out     ▁▁▁               0 B/s         0 B/s         0 B/s
processes   ███                   2             2             2
threads     ███                   9             9             9
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn what_the_driver_does_not_tell_is_said_only_to_who_asked_for_a_gpu() {
    let mut view = view();
    let summary = view.summary.as_mut().unwrap();
    summary.gpu_utilisation_percent_mean = None;
    summary.peak_vram_bytes = None;
    let has_gpu = |view: &SamplesView| usage_lines(view).iter().any(|(name, _)| *name == "gpu");
    assert!(has_gpu(&view));
    view.summary.as_mut().unwrap().requested.gpu_milli = 0;
    assert!(!has_gpu(&view));
    view.summary = None;
    assert_eq!(usage_lines(&view), []);
}

#[test]
fn a_narrow_terminal_still_has_a_chart() {
    let wide = |width| Look {
        width,
        ..Look::plain_at(0)
    };
    assert_eq!(chart_columns(&wide(Some(40))), 12);
    assert_eq!(chart_columns(&wide(Some(162))), 108);
    assert_eq!(chart_columns(&wide(None)), 46);
}

#[test]
fn a_warning_stands_between_the_totals_and_the_chart() {
    let mut view = view();
    view.warnings = vec!["holds 30 GiB of GPU 0".into()];
    let text = usage(&view, &Look::plain_at(0));
    let expected = "of the whole machine\n  warning       holds 30 GiB of GPU 0\n\nFIGURE";
    assert!(text.contains(expected), "{text}");
}
