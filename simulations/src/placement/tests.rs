use super::*;

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,8000,65536,2,T4\nb,16000,65536,4,A100\n";
const TASKS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
    p2,1000,1024,1,500,\np1,2000,2048,1,1000,A100\np3,1000,1024,0,0,\np4,4000,4096,2,1000,A100|T4\n";

fn trace() -> Trace {
    Trace::read(NODES, TASKS).unwrap()
}

#[test]
fn files_are_read_by_the_names_of_their_columns() {
    let trace = trace();
    assert_eq!((trace.nodes.len(), trace.gpu_milli()), (2, 6_000));
    assert_eq!(trace.tasks[0].models, ["A100"]);
    assert_eq!(trace.tasks[1].milli, 500);
    assert_eq!(trace.tasks[3].models, ["A100", "T4"]);
    let without = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1000,1024,1,500\n";
    let without = Trace::read(NODES, without).unwrap();
    assert!(without.tasks[0].models.is_empty());
}

#[test]
fn a_bad_file_is_refused_with_line_and_column() {
    let missing = Trace::read("sn,cpu_milli\n", TASKS)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("memory_mib is missing"), "{missing}");
    let bad = TASKS.replace("2000", "many");
    let bad = Trace::read(NODES, &bad).unwrap_err().to_string();
    assert!(bad.contains("line 3: cpu_milli is \"many\""), "{bad}");
    let empty = "sn,cpu_milli,memory_mib,gpu,model\n";
    assert!(matches!(Trace::read(empty, TASKS), Err(TraceError::Empty)));
}

#[test]
fn no_policy_allocates_more_than_there_is_and_a_seed_is_one_result() {
    let trace = trace();
    for policy in PlacementPolicy::ALL {
        for seed in 0..8 {
            let once = allocate(&trace, policy, seed);
            assert!(
                once.percent > 0.0 && once.percent <= 100.0,
                "{policy:?} {once:?}"
            );
            assert_eq!(once, allocate(&trace, policy, seed), "{policy:?}");
        }
    }
}

/// Shares of 600 and 400 and whole GPUs on two machines: only who puts the shares together leaves a whole GPU.
#[test]
fn the_scheduler_keeps_whole_gpus_whole() {
    let tasks = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
        a,1000,1024,1,600,\nb,1000,1024,1,400,\nc,1000,1024,1,1000,\n";
    let trace = Trace::read(NODES, tasks).unwrap();
    let mean = |policy| {
        let runs = (0..20).map(|seed| allocate(&trace, policy, seed).percent);
        runs.sum::<f64>() / 20.0
    };
    assert!(mean(PlacementPolicy::Muster) > mean(PlacementPolicy::Random));
}
