//! `muster nodes`.

use rest::wire::{GpuView, NodeView, NodesView};

use super::amounts::{bytes_of, milli, plain};
use super::look::{Look, Mood};
use super::sheet::{Sheet, cell, lines, word};

/// The table of nodes.
pub(crate) fn nodes(view: &NodesView, look: &Look) -> String {
    let heads = [
        "NAME", "ROLE", "WHY", "HEALTH", "CPUS", "MEMORY", "GPUS", "ATTEMPTS", "NOTES",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for node in &view.nodes {
        let declared = |what: &str| match node.declared.iter().any(|field| field == what) {
            true => " (declared)",
            false => "",
        };
        let cpus = format!(
            "{}/{}{}",
            milli(node.cpu_booked_milli),
            milli(node.cpu_milli),
            declared("cpus")
        );
        let memory = bytes_of(node.memory_booked_bytes, node.memory_bytes) + declared("memory");
        sheet.row(vec![
            cell(&node.name),
            cell(&node.role),
            lines(&reasons(&node.role_reason)),
            word(&node.health),
            cell(cpus),
            cell(memory),
            lines(&gpus(&node.gpus)),
            lines(&attempts(node)),
            lines(&notes(node)),
        ]);
    }
    let mut text = sheet.text();
    for warning in &view.warnings {
        text.push_str(&look.paint(Mood::Busy, "warning: "));
        text.push_str(&plain(warning));
        text.push('\n');
    }
    text
}

/// One line per GPU: what is booked of it, its model, its memory.
fn gpus(gpus: &[GpuView]) -> Vec<String> {
    if gpus.is_empty() {
        return vec!["-".to_owned()];
    }
    let line = |gpu: &GpuView| {
        let vram = bytes_of(gpu.booked_vram_bytes, gpu.vram_total_bytes);
        format!("{}/1 {} {vram}", milli(gpu.booked_milli), gpu.model)
    };
    gpus.iter().map(line).collect()
}

/// One line per reason.
fn reasons(text: &str) -> Vec<String> {
    text.split("; ").map(str::to_owned).collect()
}

/// What a person should know of the node, what they did first.
fn notes(node: &NodeView) -> Vec<String> {
    let draining = node.draining.as_ref();
    let mut notes: Vec<_> = draining
        .map(|who| format!("draining: {who}"))
        .into_iter()
        .collect();
    notes.extend(node.reserved.clone());
    let pinned = node.pinned.as_ref();
    notes.extend(pinned.map(|role| format!("pinned: {role}")));
    notes.extend(node.suspicion.as_ref().map(|why| format!("suspect: {why}")));
    if node.disk != "ok" {
        notes.push(format!("disk {}", node.disk));
    }
    notes.extend(node.warnings.iter().cloned());
    notes
}

fn attempts(node: &NodeView) -> Vec<String> {
    match (node.takes_work, node.attempts.is_empty()) {
        (_, false) => node.attempts.clone(),
        (true, true) => vec!["-".to_owned()],
        (false, true) => vec!["takes none".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_show_what_is_booked_and_what_to_know() {
        let node = |name: &str, role: &str| NodeView {
            id: name.into(),
            name: name.into(),
            role: role.into(),
            role_reason: "elected by 2 voters".into(),
            pinned: None,
            draining: None,
            health: "live".into(),
            suspicion: None,
            disk: "ok".into(),
            report_age_ms: Some(100),
            round_trip_us: None,
            takes_work: true,
            labels: vec![],
            reserved: None,
            cpu_milli: 4_000,
            cpu_booked_milli: 500,
            cpu_busy_milli: 0,
            memory_bytes: 8 << 30,
            memory_booked_bytes: 1 << 30,
            memory_used_bytes: 0,
            disk_free_bytes: 0,
            gpus: vec![],
            declared: vec![],
            attempts: vec![],
            version: "0.1.0".into(),
            addresses: vec![],
            warnings: vec![],
        };
        let mut second = node("n2", "voter");
        second.declared = vec!["cpus".into()];
        second.attempts = vec!["0a1b2c3d#1".into(), "9z8y7x6w#2".into()];
        second.warnings = vec!["round trip of 60 ms is over half the heartbeat".into()];
        let gpu = GpuView {
            index: 0,
            uuid: "GPU-1".into(),
            model: "NVIDIA H100".into(),
            vram_total_bytes: 80 << 30,
            vram_used_bytes: 0,
            vram_foreign_bytes: 0,
            utilisation_percent: 0,
            booked_milli: 500,
            booked_vram_bytes: 40 << 30,
            warnings: Vec::new(),
        };
        second.gpus = vec![gpu];
        let mut third = node("laptop", "learner");
        third.takes_work = false;
        third.role_reason = "stands by; it is drained".into();
        third.draining = Some("ann@n1: new disk".into());
        third.pinned = Some("worker, by ann@n1".into());
        third.suspicion = Some("it does not answer".into());
        third.disk = "full".into();
        let view = NodesView {
            nodes: vec![node("n1", "leader"), second, third],
            warnings: vec!["one machine's absence stops the cluster".into()],
        };
        let text = nodes(&view, &Look::plain_at(0));
        let expected = "\
NAME    ROLE     WHY                  HEALTH  CPUS              MEMORY   GPUS                         ATTEMPTS    NOTES
n1      leader   elected by 2 voters  live    0.5/4             1/8 GiB  -                            -
n2      voter    elected by 2 voters  live    0.5/4 (declared)  1/8 GiB  0.5/1 NVIDIA H100 40/80 GiB  0a1b2c3d#1  round trip of 60 ms is over half the heartbeat
                                                                                                      9z8y7x6w#2
laptop  learner  stands by            live    0.5/4             1/8 GiB  -                            takes none  draining: ann@n1: new disk
                 it is drained                                                                                    pinned: worker, by ann@n1
                                                                                                                  suspect: it does not answer
                                                                                                                  disk full
warning: one machine's absence stops the cluster
";
        assert_eq!(text, expected, "\n{text}");
    }
}
