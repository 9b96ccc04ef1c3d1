//! What an attempt used is in its records.

use std::time::{Duration, Instant};

use executor::{BookedGpu, GpuTenant, GpuTerms, StopReason};
use types::{
    AttemptSample, CauseKind, ConsoleStream, DurationMs, GpuIndex, GpuShare, NetworkOf, Overuse,
    Record, RecordBody,
};

use crate::lab::{self, Lab, Node, console, shell, start_of, token};

const MIB: u64 = 1 << 20;

fn samples(records: &[Record]) -> Vec<AttemptSample> {
    let sample = |record: &Record| match &record.body {
        RecordBody::Sample(sample) => Some(sample.clone()),
        _ => None,
    };
    records.iter().filter_map(sample).collect()
}

/// Waits for a sample that `fits`.
async fn sample(node: &Node, number: u32, fits: impl Fn(&AttemptSample) -> bool) -> AttemptSample {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut changed = node.handle.tail_changed(&token(number)).unwrap();
    loop {
        let found = samples(&node.records(number).await);
        if let Some(found) = found.iter().find(|found| fits(found)) {
            return found.clone();
        }
        let waited = tokio::time::timeout_at(deadline.into(), changed.changed()).await;
        assert!(matches!(waited, Ok(Ok(()))), "not among {found:?}");
    }
}

async fn stop(node: &mut Node) {
    let reason = StopReason::LeaseLost;
    let stopped = node.handle.stop(&token(1), reason, DurationMs(0)).await;
    stopped.unwrap();
    node.ended(1).await;
}

/// Burns a processor in one of three more threads, with 64 MiB held and 20 MiB on the disk.
const HUNGRY: &str = "
import os, threading
held = bytearray(os.urandom(1 << 20) * 64)
with open('out', 'wb') as out:
    for _ in range(20):
        out.write(os.urandom(1 << 20))
    out.flush()
    os.fsync(out.fileno())
stop = threading.Event()
for _ in range(2):
    threading.Thread(target=stop.wait, daemon=True).start()
def burn():
    while not stop.is_set():
        sum(range(10000))
threading.Thread(target=burn, daemon=True).start()
print('ready', flush=True)
stop.wait(3)
stop.set()
";

#[tokio::test(flavor = "multi_thread")]
async fn processor_memory_threads_and_disk_are_in_the_records() {
    for use_cgroups in [true, false] {
        let lab = Lab::new();
        let mut node = Node::with(&lab, |config| config.use_cgroups = use_cgroups).await;
        let command = ["python3", "-c", HUNGRY].map(str::to_owned).to_vec();
        node.start_attempt(1, command).await;
        node.wait_for_console(1, "ready").await;
        node.handle
            .tell_gpus(&token(1), 5 * MIB, 150)
            .expect("it runs");
        let ended = node.ended(1).await;
        assert_eq!(ended.cause.kind, CauseKind::Finished, "{ended:?}");
        assert_eq!(ended.peak_vram_bytes, 5 * MIB);
        let found = samples(&node.records(1).await);
        println!("cgroups: {use_cgroups}: {found:?}");
        let interval_ms: u64 = found.iter().map(|sample| sample.interval.0).sum();
        assert!((2_000..60_000).contains(&interval_ms), "{found:?}");
        let most =
            |figure: fn(&AttemptSample) -> u64| found.iter().map(figure).max().unwrap_or_default();
        // A busy machine gives it less than the core that it asks for.
        assert!(most(|sample| sample.cpu_milli) > 100, "{found:?}");
        let memory = most(|sample| sample.memory_bytes);
        assert!((64 * MIB..300 * MIB).contains(&memory), "{found:?}");
        assert_eq!(most(|sample| sample.peak_memory_bytes), memory, "{found:?}");
        assert_eq!(most(|sample| u64::from(sample.threads)), 4, "{found:?}");
        assert_eq!(most(|sample| u64::from(sample.processes)), 1, "{found:?}");
        let written: u64 = found
            .iter()
            .filter_map(|sample| {
                Some(sample.disk?.written_bytes_per_second * sample.interval.0 / 1_000)
            })
            .sum();
        assert!((19 * MIB..40 * MIB).contains(&written), "{found:?}");
        let gpus = found.iter().filter_map(|sample| sample.gpus).next();
        let gpus = gpus.expect("it was told");
        assert_eq!((gpus.vram_bytes, gpus.utilisation_percent), (5 * MIB, 150));
        let network = found.last().unwrap().network.expect("Linux tells");
        assert_eq!(network.of, NetworkOf::Host);
        node.handle.release(&token(1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_a_network_namespace_of_its_own_are_the_attempts() {
    let can = std::process::Command::new("unshare")
        .args(["--net", "ip", "link", "add", "sink", "type", "veth"])
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        println!("SKIPPED: needs root, unshare, ip and veth interfaces");
        return;
    }
    let lab = Lab::new();
    // As root, which may make namespaces.
    let mut node = Node::with(&lab, |config| {
        config.job_user = executor::JobUser::named("node")
    })
    .await;
    // Both ends of a cable: all that is sent comes back, and nothing leaves the namespace.
    let script = "exec unshare --net sh -c '
        ip link add sink type veth peer name drain && ip link set sink up && ip link set drain up && ip address add 10.9.9.1/24 dev sink
        ip neighbour add 10.9.9.2 lladdr 02:00:00:00:00:02 dev sink
        exec python3 -c \"$SEND\"'";
    let send = "
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    out.sendto(bytes(1000), ('10.9.9.2', 9))
    time.sleep(0.02)
";
    let mut start = start_of(1, shell(script));
    start.variables.push(("SEND".to_owned(), send.to_owned()));
    node.handle.start_attempt(start).await.unwrap();
    let network = sample(&node, 1, |_any| true).await.network;
    let said = console(&node.records(1).await, ConsoleStream::Stderr);
    let network =
        network.unwrap_or_else(|| panic!("nothing of the network, and the job said {said:?}"));
    println!("{network:?}");
    assert_eq!(network.of, NetworkOf::Attempt);
    assert!(network.received_bytes_per_second > 1_000, "{network:?}");
    assert!(network.sent_bytes_per_second > 1_000, "{network:?}");
    stop(&mut node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_told_by_the_holder_and_are_found_again_by_the_next_node_process() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    node.start_attempt(1, shell("echo ready; exec sleep 1000"))
        .await;
    node.wait_for_console(1, "ready").await;
    let expected = vec![(token(1), lab.holder_pid(1))];
    assert_eq!(node.handle.trees(), expected);
    node.die().await;
    let mut node = Node::start(&lab).await;
    lab::wait_until("its holder is found", || node.handle.trees() == expected).await;
    node.handle.tell_gpus(&token(1), MIB, 7).unwrap();
    assert!(node.handle.tell_gpus(&token(2), MIB, 7).is_err());
    let told = sample(&node, 1, |sample| sample.gpus.is_some()).await.gpus;
    assert_eq!(told.unwrap().vram_bytes, MIB);
    stop(&mut node).await;
    assert_eq!(node.handle.trees(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_of_a_gpu_is_known_to_the_next_node_process_and_ends_say_what_was_taken() {
    let lab = Lab::new();
    let mut node = Node::start(&lab).await;
    let share = GpuShare {
        index: GpuIndex(3),
        milli: 500,
        vram_bytes: 12 << 30,
    };
    let mut start = start_of(1, shell("echo ready; exec sleep 1000"));
    start.wanted.resources.gpus = vec![share];
    start.gpus = vec!["GPU-a".to_owned()];
    node.handle.start_attempt(start).await.unwrap();
    node.wait_for_console(1, "ready").await;
    let uuid = Some("GPU-a".to_owned());
    let expected = GpuTenant {
        rank: 0,
        terms: GpuTerms {
            gpus: vec![BookedGpu { share, uuid }],
            overuse: Overuse::Warn,
            stop_grace: DurationMs::from_secs(10),
        },
        is_adopted: false,
    };
    let tenant = node.handle.gpu_tenant(&token(1));
    assert_eq!(tenant.as_ref(), Some(&expected));
    node.die().await;
    let mut node = Node::start(&lab).await;
    let adopted = GpuTenant {
        is_adopted: true,
        ..expected
    };
    assert_eq!(node.handle.gpu_tenant(&token(1)), Some(adopted));
    assert_eq!(node.handle.gpu_tenant(&token(2)), None);
    let figures = "30 GiB of GPU 3 and was given 12 GiB".to_owned();
    let reason = StopReason::VramOveruse { figures };
    let grace = DurationMs::from_secs(10);
    node.handle.stop(&token(1), reason, grace).await.unwrap();
    let cause = node.ended(1).await.cause;
    assert_eq!(cause.kind, CauseKind::VramOveruse);
    let says = |part: &str| cause.evidence.iter().any(|line| line.contains(part));
    assert!(says("30 GiB of GPU 3"), "{cause:?}");
    assert!(cause.advice[0].contains("--vram"), "{cause:?}");
}
