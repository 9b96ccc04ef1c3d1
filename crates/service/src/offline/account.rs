//! The account that a person reads before a forced recovery.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use types::{NodeId, Timestamp};

use super::recover::Survivor;
use super::short;

/// Attempts that are named one by one.
const MAX_NAMED: usize = 20;

/// Writes it.
pub(super) fn write(survivor: &Survivor) -> String {
    let mut text = String::new();
    holds(&mut text, survivor)
        .and_then(|()| loses(&mut text, survivor))
        .and_then(|()| becomes(&mut text, survivor))
        .expect("a string takes everything");
    text
}

fn holds(text: &mut String, survivor: &Survivor) -> std::fmt::Result {
    let (replica, state) = (&survivor.replica, survivor.state());
    writeln!(text, "What this node holds")?;
    writeln!(
        text,
        "  node {} of cluster {}, incarnation {}",
        survivor.name(&survivor.node),
        short(&survivor.cluster),
        state.incarnation().0
    )?;
    writeln!(
        text,
        "  its log up to entry {} of term {}, written when the leader's clock said {}{}",
        replica.last,
        replica.term,
        time(state.time()),
        survivor
            .written_at()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok()) // before 1970: not worth a word
            .map(|since| format!(
                "; its disk was last written at {}",
                time(Timestamp(u64::try_from(since.as_millis()).unwrap_or(0)))
            ))
            .unwrap_or_default()
    )?;
    writeln!(
        text,
        "  it knew entries up to {} to be acknowledged; those after may have been, and are kept",
        replica.committed
    )
}

fn loses(text: &mut String, survivor: &Survivor) -> std::fmt::Result {
    let (replica, state) = (&survivor.replica, survivor.state());
    writeln!(text, "What is not known here")?;
    writeln!(
        text,
        "  other voters: {}",
        survivor.list(&survivor.other_voters())
    )?;
    let mut learners = replica.learners.clone();
    learners.remove(&survivor.node);
    if !learners.is_empty() {
        writeln!(
            text,
            "  learners, which hold a copy too: {}; if one holds a later entry than {}, recover there instead",
            survivor.list(&learners),
            replica.last
        )?;
    }
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let since = age.saturating_sub(state.time().0 / 1_000);
    writeln!(
        text,
        "  whatever they acknowledged after entry {}, in the {} since then, is LOST: experiments that were submitted,\n  \
         stopped, or finished; machines that joined or were removed; tokens that were made. Tokens of people that were\n  \
         revoked after that entry are good again: look at `muster user list`",
        replica.last,
        types::DurationMs::from_secs(since)
    )
}

fn becomes(text: &mut String, survivor: &Survivor) -> std::fmt::Result {
    let (replica, state) = (&survivor.replica, survivor.state());
    let out: BTreeSet<NodeId> = replica
        .voters
        .union(&replica.learners)
        .filter(|node| **node != survivor.node)
        .cloned()
        .collect();
    writeln!(text, "What happens")?;
    writeln!(
        text,
        "  incarnation {} begins with this node as its only voter; all join tokens end",
        state.incarnation().0 + 1
    )?;
    writeln!(
        text,
        "  put out for ever: {}. Started again as they are, they are refused; they come back as new machines with\n  \
         `muster up --rejoin TOKEN`",
        survivor.list(&out)
    )?;
    let workers: Vec<_> = state
        .nodes()
        .filter(|record| record.node != survivor.node && !out.contains(&record.node))
        .map(|record| record.facts.name.as_str())
        .collect();
    if !workers.is_empty() {
        writeln!(
            text,
            "  stay members and follow when they reach this node: {}",
            workers.join(", ")
        )?;
    }
    let attempts: Vec<_> = state
        .active()
        .map(|(experiment, attempt)| {
            let ranks = attempt.ranks.iter().map(|rank| &rank.placement.node);
            let on: Vec<_> = ranks.map(|node| survivor.name(node)).collect();
            let on = on.join(", ");
            format!("{} ({}) on {on}", experiment.id, experiment.spec.name)
        })
        .collect();
    for attempt in attempts.iter().take(MAX_NAMED) {
        writeln!(
            text,
            "  {attempt} goes on if its machine still runs it, else it is lost after its lease and placed again"
        )?;
    }
    if attempts.len() > MAX_NAMED {
        writeln!(text, "  and {} more", attempts.len() - MAX_NAMED)?;
    }
    let hold = agent::leases::longest_lease(state);
    writeln!(
        text,
        "  what was submitted before waits for {hold} before it is placed: in what is lost it may have been started"
    )
}

fn time(at: Timestamp) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms);
    at.map_or_else(|_| ms.to_string(), |at| format!("{at:.0}"))
}
