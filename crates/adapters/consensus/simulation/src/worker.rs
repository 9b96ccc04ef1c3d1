//! The node's side of running attempts: the real agent decides, this loop does what it says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::{Action, Agent, AgentConfig, Input, StopReason};
use state_machine::{AttemptReport, Command, Outcome, RefusalCode, ReportAttempt};
use tokio::sync::mpsc;
use types::{AttemptToken, NodeReport, Timestamp};

use crate::names::name;
use crate::network::{Request, Response};
use crate::node::Node;
use crate::runtime::{Life, lock};
use crate::seen::Seen;
use crate::world::index;

/// Time between two looks at the leader's wanted set when nothing is running.
const HELLO: Duration = Duration::from_secs(5);
/// Time for a lease request.
const LEASE_DEADLINE: Duration = Duration::from_millis(1_500);
/// Time for a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Runs what this node should run; attempts go on without it.
pub(crate) async fn run_agent(node: Arc<Node>, life: Life, mut answers: mpsc::Receiver<Input>) {
    let mut wanted = node.wanted.subscribe();
    let mut agent = Agent::new(AgentConfig::default());
    let worker = Worker {
        node: Arc::clone(&node),
        life,
        reporting: Arc::default(),
    };
    let mut hello = tokio::time::Instant::now();
    let mut input = Some(Input::Running(node.world.holdings(node.number)));
    loop {
        if let Some(input) = input.take() {
            for action in agent.step(node.world.clock(node.number), input) {
                worker.perform(action);
            }
        }
        let wake = agent.next_wake();
        let wait = wake.map_or(HELLO, |at| node.world.until(node.number, at));
        tokio::select! {
            biased;
            Some(answer) = answers.recv() => input = Some(answer),
            changed = wanted.changed() => match changed {
                Ok(()) => {
                    let newest = wanted.borrow_and_update().clone();
                    input = newest.map(|(set, confirmed)| Input::Wanted(set, confirmed));
                }
                Err(_closed) => return,
            },
            () = tokio::time::sleep_until(hello) => {
                hello = tokio::time::Instant::now() + HELLO;
                worker.request_leases(Vec::new());
                // What a full queue may have lost is still with the holders.
                input = Some(Input::Running(node.world.holdings(node.number)));
            }
            () = tokio::time::sleep(wait) => input = Some(Input::Tick),
        }
    }
}

struct Worker {
    node: Arc<Node>,
    life: Life,
    /// Reports under way, of the start or of the end: a slow one is not begun twice.
    reporting: Arc<Mutex<BTreeSet<(AttemptToken, bool)>>>,
}

impl Worker {
    fn perform(&self, action: Action) {
        let (world, number) = (&self.node.world, self.node.number);
        match action {
            Action::RequestLease { tokens } => self.request_leases(tokens),
            Action::Start(wanted, deadline) => {
                let is_long = wanted.spec.name.starts_with("long");
                world.hold(number, wanted.token, deadline, is_long);
            }
            Action::Extend {
                token,
                deadline_boottime_ms,
            } => world.extend(number, token, deadline_boottime_ms),
            Action::Stop {
                token,
                reason,
                grace,
            } => {
                if matches!(reason, StopReason::Stale { .. }) {
                    world.see(&Seen::StoppedAsStale {
                        node: number,
                        token,
                    });
                }
                world.kill(number, token, reason.cause(), grace);
            }
            Action::ReportStarted { token, rank } => {
                let at = world.wall(number);
                self.report((token, rank), AttemptReport::Started { at }, true);
            }
            Action::ReportEnded { token, rank } => {
                self.report((token, rank), world.end_report(number, token), false);
            }
            Action::ReportNeverStarted { token, rank, by } => {
                let cause = types::CauseKind::Stopped { by };
                self.report((token, rank), world.ended_report(number, cause), false);
            }
            Action::Release { token } => world.release(number, token),
        }
    }

    fn request_leases(&self, tokens: Vec<AttemptToken>) {
        let node = Arc::clone(&self.node);
        self.life.spawn(async move {
            // The lease counts from here, on this node's clock.
            let sent_at = node.world.clock(node.number);
            let answer = if node.is_leader() {
                node.answer_lease(node.number, &tokens).await
            } else {
                node.ask_leader(Request::Lease(tokens), LEASE_DEADLINE)
                    .await
            };
            let Response::Lease(answer) = answer else {
                return;
            };
            for (token, length) in answer.granted {
                let number = node.number;
                node.world.see(&Seen::Granted {
                    node: number,
                    token,
                });
                let granted = Input::LeaseGranted {
                    token,
                    sent_at_boottime_ms: sent_at,
                    length,
                };
                drop(node.inputs.send(granted).await);
            }
            for (token, why) in answer.refused {
                drop(node.inputs.send(Input::LeaseRefused { token, why }).await);
            }
            node.take_wanted(answer.wanted, true);
        });
    }

    fn report(&self, (token, rank): (AttemptToken, u32), report: AttemptReport, is_start: bool) {
        if !lock(&self.reporting).insert((token, is_start)) {
            return;
        }
        let (node, reporting) = (Arc::clone(&self.node), Arc::clone(&self.reporting));
        self.life.spawn(async move {
            let command = Command::ReportAttempt(Box::new(ReportAttempt {
                token,
                node: name(node.number),
                rank,
                report,
            }));
            let answer = if node.is_leader() {
                node.answer_propose(node.number, command).await
            } else {
                let message = Request::Propose(Box::new(command));
                node.ask_leader(message, REPORT_DEADLINE).await
            };
            lock(&reporting).remove(&(token, is_start));
            let settled = match answer {
                Response::Outcome(_, Outcome::Refused(refusal)) => {
                    matches!(
                        refusal.code,
                        RefusalCode::Stale
                            | RefusalCode::AlreadyEnded
                            | RefusalCode::UnknownExperiment
                    )
                }
                Response::Outcome(..) => true,
                _ => false,
            };
            if settled {
                let committed = if is_start {
                    Input::StartCommitted { token }
                } else {
                    Input::ReportCommitted { token }
                };
                drop(node.inputs.send(committed).await);
            }
        });
    }
}

/// Tells everybody what this machine has, as gossip does.
pub(crate) async fn gossip(node: Arc<Node>) {
    let world = &node.world;
    let (start, boot) = world.with(|inner| {
        let host = &inner.hosts[index(node.number)];
        (host.start, host.boot)
    });
    for sequence in 1.. {
        let report = NodeReport {
            node: name(node.number),
            node_started_at: Timestamp(start),
            sequence,
            taken_at: world.wall(node.number),
            boot_id: boot,
            cpu_milli: 4_000,
            cpu_busy_milli: 0,
            memory_bytes: 8 << 30,
            memory_used_bytes: 0,
            disk_free_bytes: 100 << 30,
            gpus: Vec::new(),
            declared: Vec::new(),
            warnings: Vec::new(),
            refuses_work: false,
        };
        for to in 0..world.size() {
            let (world, message) = (Arc::clone(world), Request::Report(Box::new(report.clone())));
            let from = node.number;
            crate::runtime::spawn(async move {
                // Nobody answers gossip.
                drop(world.call(from, to, message, Duration::from_secs(1)).await);
            });
        }
        let pause = world.range(2_000..5_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
