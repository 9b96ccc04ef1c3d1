//! Reports of this machine.

use std::path::PathBuf;
use std::time::Duration;

use telemetry::{Config, Declared, DeclaredGpu, Error, boot_id, start};

fn config(directory: &tempfile::TempDir) -> Config {
    Config {
        interval: Duration::from_millis(20),
        nvml_path: Some(PathBuf::from("/none/libnvidia-ml.so.1")),
        disk_reserve_bytes: 0,
        ..Config::new(
            "12D3KooWnode".parse().expect("it is base58"),
            directory.path().to_path_buf(),
        )
    }
}

#[tokio::test]
async fn first_report_is_there_at_once_and_complete() {
    let directory = tempfile::tempdir().unwrap();
    let (handle, _run) = start(config(&directory)).unwrap();
    let report = handle.latest().borrow().clone();
    assert_eq!(report.sequence, 1);
    assert_eq!(report.boot_id, boot_id());
    assert!(report.cpu_milli >= 1_000);
    assert!(report.memory_bytes > report.memory_used_bytes);
    assert!(report.disk_free_bytes > 0);
    assert!(report.gpus.is_empty() && report.declared.is_empty());
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.warnings[0].contains("libnvidia-ml.so.1"));
    assert!(!report.refuses_work);
}

#[tokio::test]
async fn reports_go_on_and_number_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let (handle, run) = start(config(&directory)).unwrap();
    let run = tokio::spawn(run);
    let mut latest = handle.latest();
    let first = latest.borrow_and_update().clone();
    let next = tokio::time::timeout(Duration::from_secs(6), latest.changed());
    next.await.expect("one each 5 s").unwrap();
    let second = latest.borrow().clone();
    assert!(second.sequence > first.sequence);
    assert_eq!(second.node_started_at, first.node_started_at);
    run.abort();
    assert!(latest.changed().await.is_err(), "the loop has ended");
}

#[tokio::test]
async fn change_is_told_long_before_the_next_report_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let (handle, run) = start(Config {
        data_directory: data.clone(),
        ..config(&directory)
    })
    .unwrap();
    let run = tokio::spawn(run);
    let mut latest = handle.latest();
    latest.borrow_and_update();
    // The data directory vanishes: the last figures stay, and a warning names it.
    std::fs::remove_dir(&data).unwrap();
    let warned = latest.wait_for(|report| report.warnings.len() == 2);
    let report = tokio::time::timeout(Duration::from_secs(3), warned)
        .await
        .expect("told at once")
        .unwrap()
        .clone();
    assert!(report.warnings[0].contains("data"), "{:?}", report.warnings);
    assert!(report.disk_free_bytes > 0);
    run.abort();
}

#[tokio::test]
async fn declared_gpus_are_offered_without_a_driver() {
    let directory = tempfile::tempdir().unwrap();
    let declared = Declared {
        gpus: Some(vec![DeclaredGpu {
            model: "H100".to_owned(),
            vram_bytes: 80 << 30,
        }]),
        ..Declared::default()
    };
    let (handle, _run) = start(Config {
        declared,
        disk_reserve_bytes: u64::MAX,
        ..config(&directory)
    })
    .unwrap();
    let report = handle.latest().borrow().clone();
    assert_eq!(report.gpus[0].uuid, "declared-0");
    assert_eq!(report.declared, ["gpus"]);
    assert!(report.refuses_work, "the reserve cannot be there");
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[tokio::test]
async fn missing_data_directory_fails_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let started = start(Config {
        data_directory: directory.path().join("none"),
        ..config(&directory)
    });
    assert!(matches!(started.err(), Some(Error::Disk { .. })));
}
