//! Whether there is an order of the operations on one experiment that explains all answers: each took effect at one
//! moment between its request and its answer. The search is Wing and Gong's, with Lowe's memory of what was tried.
//!
//! The model is an experiment that no machine can run, so that nobody but the clients changes it: it is absent, waits
//! in one of some queues, or was stopped. So a move is a write of a register, and a look is a read.

use std::collections::HashSet;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It waits in queue 0 from now on.
    Submit,
    /// It waits in this queue from now on.
    Move(u8),
    Stop,
    Read,
}

/// What an experiment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Absent,
    Waiting(u8),
    Ended(u8),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Refused: it is over.
    Over,
    /// Refused: there is no such experiment.
    Unknown,
    Saw(State),
    /// No answer: it may have taken effect at any time since, or never.
    Open,
}

/// One request and its answer; times are of one clock for all clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) action: Action,
    pub(crate) outcome: Outcome,
    pub(crate) invoked: u64,
    /// Of no meaning for an open one.
    pub(crate) returned: u64,
}

/// States looked at before the search is given up: a history of this laboratory takes some thousand.
const MAX_STATES: usize = 5_000_000;

/// What the state is after an operation; none if it cannot have had this outcome.
fn step(state: State, operation: &Operation) -> Option<State> {
    match (operation.action, operation.outcome) {
        (Action::Read, Outcome::Saw(seen)) => (seen == state).then_some(state),
        (Action::Read, _) => Some(state),
        (_, Outcome::Over) => matches!(state, State::Ended(_)).then_some(state),
        (_, Outcome::Unknown) => (state == State::Absent).then_some(state),
        (Action::Submit, _) => (state == State::Absent).then_some(State::Waiting(0)),
        (Action::Move(queue), _) => match state {
            State::Waiting(_) => Some(State::Waiting(queue)),
            State::Absent | State::Ended(_) => None,
        },
        (Action::Stop, _) => match state {
            State::Waiting(queue) => Some(State::Ended(queue)),
            State::Absent | State::Ended(_) => None,
        },
    }
}

/// Checks the operations on one experiment.
///
/// # Errors
/// No order explains them; the text lists those that no order got to, next to the longest one.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| operation.invoked);
    let mut longest = (0, vec![false; sorted.len()], State::Absent);
    let first = (vec![false; sorted.len()], State::Absent);
    let mut tried = HashSet::from([first.clone()]);
    let mut stack = vec![first];
    while let Some((done, state)) = stack.pop() {
        let open = |at: usize| sorted[at].outcome == Outcome::Open;
        let missing = (0..sorted.len()).filter(|at| !done[*at] && !open(*at));
        // Whoever was asked after the answer to a missing one comes later than it.
        let Some(horizon) = missing.map(|at| sorted[at].returned).min() else {
            return Ok(());
        };
        let depth = done.iter().filter(|done| **done).count();
        if depth > longest.0 {
            longest = (depth, done.clone(), state);
        }
        for (at, operation) in sorted.iter().enumerate() {
            if operation.invoked > horizon {
                break;
            }
            if done[at] {
                continue;
            }
            if let Some(next) = step(state, operation) {
                let mut done = done.clone();
                done[at] = true;
                if tried.insert((done.clone(), next)) {
                    stack.push((done, next));
                }
            }
        }
        if tried.len() > MAX_STATES {
            return Err(format!("no order found among {MAX_STATES} tried"));
        }
    }
    let (depth, done, state) = longest;
    let left: Vec<_> = sorted
        .iter()
        .zip(&done)
        .filter(|(_, done)| !**done)
        .collect();
    let left: Vec<_> = left
        .iter()
        .map(|(operation, _)| format!("{operation:?}"))
        .collect();
    Err(format!(
        "no order explains them; after {depth} of {} the state is {state:?}, and left are\n{}",
        sorted.len(),
        left.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, outcome: Outcome, invoked: u64, returned: u64) -> Operation {
        Operation {
            client: 0,
            action,
            outcome,
            invoked,
            returned,
        }
    }

    fn read(state: State, invoked: u64, returned: u64) -> Operation {
        operation(Action::Read, Outcome::Saw(state), invoked, returned)
    }

    fn done(action: Action, invoked: u64, returned: u64) -> Operation {
        operation(action, Outcome::Done, invoked, returned)
    }

    fn lost(action: Action, invoked: u64) -> Operation {
        operation(action, Outcome::Open, invoked, 0)
    }

    use Action::{Move, Stop, Submit};
    use State::{Absent, Ended, Waiting};

    #[test]
    fn a_history_in_sequence_is_explained() {
        let history = [
            read(Absent, 0, 1),
            done(Submit, 2, 3),
            read(Waiting(0), 4, 5),
            done(Move(2), 6, 7),
            read(Waiting(2), 8, 9),
            done(Stop, 10, 11),
            read(Ended(2), 12, 13),
            operation(Move(1), Outcome::Over, 14, 15),
        ];
        check(&history).unwrap();
    }

    #[test]
    fn what_overlaps_may_be_seen_in_either_order_but_only_in_one() {
        let moved = [
            done(Submit, 0, 1),
            done(Move(1), 2, 10),
            done(Move(2), 2, 10),
        ];
        let with = |reads: &[Operation]| check(&[&moved[..], reads].concat());
        with(&[read(Waiting(1), 3, 4), read(Waiting(2), 5, 6)]).unwrap();
        with(&[read(Waiting(2), 3, 4), read(Waiting(1), 5, 6)]).unwrap();
        with(&[read(Waiting(0), 3, 4), read(Waiting(2), 11, 12)]).unwrap();
        with(&[
            read(Waiting(1), 3, 4),
            read(Waiting(2), 5, 6),
            read(Waiting(1), 7, 8),
        ])
        .unwrap_err();
        with(&[read(Waiting(1), 3, 4), read(Waiting(0), 5, 6)]).unwrap_err();
    }

    #[test]
    fn a_read_from_the_past_is_found() {
        let history = [
            done(Submit, 0, 1),
            done(Move(1), 2, 3),
            read(Waiting(0), 4, 5),
        ];
        let said = check(&history).unwrap_err();
        assert!(said.contains("Saw(Waiting(0))"), "{said}");
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        check(&[done(Submit, 0, 1), read(Absent, 2, 3)]).unwrap_err();
        check(&[done(Submit, 0, 1), done(Stop, 2, 3), read(Waiting(0), 4, 5)]).unwrap_err();
        // Undone by nobody: it was seen and is gone.
        check(&[lost(Submit, 0), read(Waiting(0), 2, 3), read(Absent, 4, 5)]).unwrap_err();
    }

    #[test]
    fn a_write_that_happens_twice_is_found() {
        let history = [
            done(Submit, 0, 1),
            done(Move(1), 2, 3),
            done(Move(2), 4, 5),
            read(Waiting(2), 6, 7),
            read(Waiting(1), 8, 9),
        ];
        check(&history).unwrap_err();
        // Two clients ended it, each alone.
        check(&[done(Submit, 0, 1), done(Stop, 2, 3), done(Stop, 4, 5)]).unwrap_err();
    }

    #[test]
    fn an_unanswered_write_may_take_effect_late_or_never() {
        let base = [
            done(Submit, 0, 1),
            lost(Move(1), 2),
            read(Waiting(0), 100, 101),
        ];
        check(&base).unwrap();
        let late = [&base[..], &[read(Waiting(1), 200, 201)]].concat();
        check(&late).unwrap();
        let twice = [
            &late[..],
            &[done(Move(2), 300, 301), read(Waiting(1), 400, 401)],
        ]
        .concat();
        check(&twice).unwrap_err();
        // Not before it was asked for.
        check(&[done(Submit, 0, 1), read(Waiting(1), 2, 3), lost(Move(1), 4)]).unwrap_err();
    }

    #[test]
    fn refusals_are_answers_too() {
        check(&[done(Submit, 0, 1), operation(Stop, Outcome::Over, 2, 3)]).unwrap_err();
        check(&[done(Submit, 0, 1), operation(Stop, Outcome::Unknown, 2, 3)]).unwrap_err();
        check(&[operation(Stop, Outcome::Unknown, 0, 5), done(Submit, 1, 2)]).unwrap();
    }

    #[test]
    fn many_operations_at_once_take_a_moment() {
        let mut history = vec![done(Submit, 0, 1)];
        for round in 0..100_u64 {
            for client in 0..5_u8 {
                let at = 10 + round * 10 + u64::from(client);
                history.push(if round % 10 == 3 {
                    lost(Move(client), at)
                } else {
                    done(Move(client), at, at + 8)
                });
            }
        }
        history.push(read(Waiting(4), 5_000, 5_001));
        check(&history).unwrap();
    }
}
