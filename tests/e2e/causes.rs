//! Why experiments ended: each cause that a machine without GPUs can make happen, made to happen.

use service::view::{CauseView, SamplesView, WhyView};

use crate::harness::{Lab, Node, PATIENCE, wait_until};

/// Runs it to its end; how that was explained.
fn cause_of(node: &Node, arguments: &[&str]) -> CauseView {
    let id = node.submit(arguments);
    let detail = node.wait_end(&id);
    let cause = detail.attempts.last().and_then(|one| one.cause.clone());
    let cause = cause.unwrap_or_else(|| panic!("no cause: {detail:?}"));
    let page = node.muster(&["show", &id]).success();
    println!("{page}");
    for line in cause.evidence.iter().chain(&cause.advice) {
        assert!(page.contains(line.trim()), "{line:?} is not in\n{page}");
    }
    let why: WhyView = node.ask(&["why", &id]);
    assert_eq!(why.cause.as_ref(), detail.cause.as_ref());
    cause
}

/// A cause with this word, this code, and a line of evidence with this in it.
#[track_caller]
fn expect(cause: &CauseView, kind: &str, code: i32, evidence: &str) {
    assert_eq!(
        (cause.kind.as_str(), cause.exit_code),
        (kind, code),
        "{cause:?}"
    );
    let lines = &cause.evidence;
    assert!(
        lines.iter().any(|line| line.contains(evidence)),
        "{evidence:?} is not in {lines:#?}"
    );
}

#[test]
fn commands_that_cannot_run_or_end_by_themselves_say_why() {
    let lab = Lab::new();
    let a = lab.one();
    let of = |command: &[&str]| cause_of(&a, &[&["--"], command].concat());
    expect(&of(&["sh", "-c", "exit 7"]), "exit-code", 7, "exit code 7");
    let cause = of(&["no-such-program"]);
    expect(&cause, "command-not-found", 127, "No such file");
    assert!(!cause.advice.is_empty());
    let cause = of(&["sh", "-c", "no-such-program --lr 1"]);
    expect(&cause, "command-not-found", 127, "not found");
    assert_eq!(cause.text, "command not found: no-such-program");
    let cause = of(&["/etc/passwd"]);
    expect(&cause, "permission-denied", 126, "Permission denied");
    assert_eq!(cause.text, "permission denied: /etc/passwd");
    let kill = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)";
    let cause = of(&["python3", "-c", kill]);
    expect(&cause, "signal", 139, "signal 11 (SIGSEGV)");
    assert!(cause.advice[0].contains("faulthandler"), "{cause:?}");
    expect(
        &of(&["sh", "-c", "kill -9 $$"]),
        "signal",
        137,
        "signal 9 (SIGKILL)",
    );
    let cause = cause_of(&a, &["--time", "1s", "--", "sleep", "1000"]);
    expect(&cause, "time-limit", 124, "time limit of 1 s");
    // Asked of the kernel, not printed.
    let full = "open('/dev/full', 'w').write('x' * 100000)";
    let cause = of(&["python3", "-c", full]);
    expect(&cause, "disk-full", 1, "No space left on device");
    assert!(
        cause
            .evidence
            .iter()
            .any(|line| line.contains("the disk of the experiment has")),
        "{cause:?}"
    );
}

#[test]
fn exceptions_of_python_are_told_with_the_line_that_raised_them() {
    let lab = Lab::new();
    let a = lab.one();
    let of = |script: &str| cause_of(&a, &["--", "python3", "-c", script]);
    let cause = of("import no_such_module_here");
    expect(&cause, "import-failed", 1, "ModuleNotFoundError");
    assert_eq!(cause.text, "import failed: no_such_module_here");
    let chained = "
def load(name):
    return {}[name]

def main():
    try:
        load('train')
    except KeyError as error:
        raise ValueError('no such split') from error

main()
";
    let cause = of(chained);
    expect(
        &cause,
        "exit-code",
        1,
        "Python ended with: ValueError: no such split (<string>, line 9, in main",
    );
    expect(&cause, "exit-code", 1, "which came from: KeyError: 'train'");
    // What it survived is no cause: a caught exception that it printed, and a child that died of one.
    let survived = "
import subprocess, sys, traceback
try:
    import no_such_module_here
except ImportError:
    traceback.print_exc()
subprocess.run([sys.executable, '-c', 'import neither_this'])
print('goes on without', file=sys.stderr)
sys.exit(3)
";
    let cause = of(survived);
    expect(&cause, "exit-code", 3, "the last traceback in its output");
    assert!(cause.findings.is_empty(), "{cause:?}");
}

#[test]
fn a_python_program_that_is_stopped_says_where_it_was() {
    let lab = Lab::new();
    let a = lab.one();
    // It has a thread that only waits; and there is a shell between it and muster.
    let script = "
import threading, time

def next_batch():
    print('waiting', flush=True)
    time.sleep(600)

threading.Thread(target=threading.Event().wait, daemon=True).start()
next_batch()
";
    let id = a.submit(&["--", "sh", "-c", "python3 -c \"$0\"; true", script]);
    wait_until(PATIENCE, "it waits", || {
        a.logs(&id).contains("waiting").then_some(())
    });
    a.muster(&["stop", &id]).success();
    let detail = a.wait_end(&id);
    let cause = detail.attempts[0].cause.clone().unwrap();
    println!("{}", a.muster(&["why", &id]).success());
    expect(&cause, "stopped", 143, "stacks of 1 Python process, then");
    expect(
        &cause,
        "stopped",
        143,
        "Python was at <string>, line 6, in next_batch",
    );
    let said = a.muster(&["logs", &id]).err;
    assert!(said.contains("most recent call first"), "{said}");
}

#[test]
fn a_loss_that_is_nan_is_the_cause_or_is_told_besides() {
    let lab = Lab::new();
    let a = lab.one();
    let lost = |code: i32| {
        format!(
            "import sys
for step in range(5):
    loss = 1.0 if step < 3 else float('nan')
    print(f'metric: loss={{loss}} val_auc=0.5 step={{step}}')
sys.exit({code})"
        )
    };
    let cause = cause_of(&a, &["--", "python3", "-c", &lost(4)]);
    expect(&cause, "nan-loss", 4, "metric loss is NaN since step 3");
    let cause = cause_of(&a, &["--", "python3", "-c", &lost(0)]);
    expect(&cause, "finished", 0, "exit code 0");
    assert_eq!(cause.findings[0].kind, "nan-loss", "{cause:?}");
    let other = "print('metric: val_auc=nan step=1'); raise SystemExit(4)";
    let cause = cause_of(&a, &["--", "python3", "-c", other]);
    expect(&cause, "exit-code", 4, "exit code 4");
    assert!(cause.findings.is_empty(), "{cause:?}");
}

/// Takes 1 MiB more each eighth of a second, and says so once it began.
const LEAK: &str = "
import os, time
kept = []
print('ready', flush=True)
while True:
    kept.append(bytearray(os.urandom(4096) * 256))
    time.sleep(0.125)
";

#[test]
fn a_leak_is_warned_of_while_it_runs() {
    let lab = Lab::new();
    let a = lab.one();
    let id = a.submit(&["--memory", "2GiB", "--", "python3", "-c", LEAK]);
    a.wait_state(&id, &["running"]);
    let finding = wait_until(2 * PATIENCE, "the leak is seen", || {
        // None is there in its first seconds.
        let output = a.muster(&["--json", "usage", &id]);
        let view: SamplesView = serde_json::from_str(&output.out).ok()?;
        view.findings.into_iter().next()
    });
    println!("{finding:?}");
    assert_eq!(finding.kind, "leak-suspected");
    assert!(
        finding
            .evidence
            .contains("of 2 GiB: at this rate it is full in"),
        "{finding:?}"
    );
    assert!(!finding.advice.is_empty());
    let why: WhyView = a.ask(&["why", &id]);
    assert_eq!(why.state, "running");
    assert_eq!(why.findings[0].kind, "leak-suspected", "{why:?}");
    for page in ["why", "show", "usage"] {
        let text = a.muster(&[page, &id]).success();
        println!("{text}");
        assert!(
            text.contains("warning") && text.contains("memory leak suspected: memory grew by"),
            "{text}"
        );
    }
    a.muster(&["stop", &id]).success();
    let cause = a.wait_end(&id).cause.unwrap();
    assert_eq!(cause.kind, "stopped");
    assert_eq!(cause.findings[0].kind, "leak-suspected", "{cause:?}");
}
