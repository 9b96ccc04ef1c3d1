//! `muster top`.

use comfy_table::Cell;
use rest::wire::{
    GpuDetail, GpuView, HostDetail, MachineSample, MachineView, MachinesView, NodeView,
};

use super::amounts::{bytes, bytes_of, milli, plain};
use super::look::{Look, Mood};
use super::sheet::{Sheet, cell, lines};

/// Tables of the machines, their GPUs, and who uses those.
pub(crate) fn machines(view: &MachinesView, look: &Look) -> String {
    let mut text = hosts(&view.machines, look);
    for table in [gpus(&view.machines, look), processes(&view.machines, look)]
        .into_iter()
        .flatten()
    {
        text.push('\n');
        text.push_str(&table);
    }
    for warning in &view.warnings {
        text.push_str(&look.paint(Mood::Busy, "warning: "));
        text.push_str(&plain(warning));
        text.push('\n');
    }
    text
}

fn hosts(machines: &[MachineView], look: &Look) -> String {
    let heads = [
        "MACHINE",
        "CPUS BUSY",
        "LOAD",
        "MEMORY",
        "WAITS",
        "DISKS",
        "NETWORK",
        "HOTTEST",
        "ATTEMPTS",
        "NOTES",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for machine in machines {
        let host = machine.sample.as_ref().map(|sample| &sample.host);
        let shown = |text: fn(&HostDetail) -> String| or_dash(host.map(text));
        sheet.row(vec![
            cell(&machine.node.name),
            shown(cpus),
            shown(|host| tenths(host.load_milli[0])),
            shown(memory),
            shown(waits),
            shown(disks),
            shown(network),
            shown(hottest),
            lines(&attempts(&machine.node)),
            lines(&notes(machine)),
        ]);
    }
    sheet.text()
}

fn attempts(node: &NodeView) -> Vec<String> {
    match node.attempts.is_empty() {
        true => vec!["-".to_owned()],
        false => node.attempts.clone(),
    }
}

fn notes(machine: &MachineView) -> Vec<String> {
    let silent = machine.silent.iter();
    let mut notes: Vec<_> = silent
        .map(|why| format!("does not answer: {why}"))
        .collect();
    if let Some(sample) = &machine.sample {
        notes.extend(age(sample));
        notes.extend(sample.gpu_warnings.iter().cloned());
    }
    notes
}

/// A remark on GPU figures that are not of this moment.
fn age(sample: &MachineSample) -> Option<String> {
    let age_ms = sample.gpus_age_ms.filter(|age_ms| *age_ms >= 5_000)?;
    Some(format!("GPU figures are {} s old", age_ms / 1_000))
}

fn cpus(host: &HostDetail) -> String {
    let busy = total(host.cpus_busy_milli.iter().map(|busy| u64::from(*busy)));
    format!("{} of {}", tenths(busy), host.cpus_busy_milli.len())
}

fn memory(host: &HostDetail) -> String {
    let memory = bytes_of(host.memory_used_bytes, host.memory_bytes);
    match host.swap_used_bytes {
        0 => memory,
        used => format!("{memory}, swap {}", bytes_of(used, host.swap_bytes)),
    }
}

/// Parts of the time in which something waited.
fn waits(host: &HostDetail) -> String {
    let Some(pressure) = &host.pressure else {
        return "-".to_owned();
    };
    let waits: Vec<_> = [
        ("cpu", pressure.cpu_some),
        ("memory", pressure.memory_some),
        ("disk", pressure.io_some),
    ]
    .into_iter()
    .filter(|(_what, hundredths)| *hundredths >= 100)
    .map(|(what, hundredths)| format!("{what} {} %", hundredths / 100))
    .collect();
    match waits.is_empty() {
        true => "none".to_owned(),
        false => waits.join(", "),
    }
}

fn disks(host: &HostDetail) -> String {
    let sum = |rate: fn(&rest::wire::DiskDetail) -> u64| total(host.disks.iter().map(rate));
    let read = sum(|disk| disk.read_bytes_per_second);
    let written = sum(|disk| disk.written_bytes_per_second);
    format!("{}/s read, {}/s written", bytes(read), bytes(written))
}

fn network(host: &HostDetail) -> String {
    let interfaces = &host.interfaces;
    let received = total(interfaces.iter().map(|one| one.received_bytes_per_second));
    let sent = total(interfaces.iter().map(|one| one.sent_bytes_per_second));
    format!("{}/s in, {}/s out", bytes(received), bytes(sent))
}

fn hottest(host: &HostDetail) -> String {
    let hottest = host
        .temperatures
        .iter()
        .max_by_key(|sensor| sensor.milli_celsius);
    hottest.map_or_else(
        || "-".to_owned(),
        |sensor| format!("{} °C {}", sensor.milli_celsius / 1_000, sensor.sensor),
    )
}

/// A sum of what others claim.
fn total(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

/// Thousandths with one decimal.
fn tenths(amount_milli: u64) -> String {
    let tenths = amount_milli.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn or_dash(text: Option<String>) -> Cell {
    cell(text.unwrap_or_else(|| "-".to_owned()))
}

/// What a machine says of its GPUs; nothing where it does not answer.
fn details(machine: &MachineView) -> &[GpuDetail] {
    let sample = machine.sample.as_ref();
    sample.map_or(&[], |sample| &sample.gpus)
}

fn gpus(machines: &[MachineView], look: &Look) -> Option<String> {
    let heads = [
        "MACHINE", "GPU", "MODEL", "BUSY", "VRAM", "BOOKED", "OTHERS", "POWER", "HEAT", "CLOCK",
        "NOTES",
    ];
    let mut sheet = Sheet::new(&heads, look);
    let mut is_empty = true;
    for machine in machines {
        let details = details(machine);
        for gpu in &machine.node.gpus {
            let detail = details.iter().find(|detail| detail.uuid == gpu.uuid);
            sheet.row(gpu_row(&machine.node.name, gpu, detail));
            is_empty = false;
        }
    }
    (!is_empty).then(|| sheet.text())
}

fn gpu_row(machine: &str, gpu: &GpuView, detail: Option<&GpuDetail>) -> Vec<Cell> {
    let shown = |text: fn(&GpuDetail) -> Option<String>| or_dash(detail.and_then(text));
    let vram = detail.map_or((gpu.vram_used_bytes, gpu.vram_total_bytes), |detail| {
        (detail.vram_used_bytes, detail.vram_total_bytes)
    });
    let share = Some(gpu.booked_milli).filter(|share| *share > 0);
    let booked = share.map(|share| {
        let vram = bytes(gpu.booked_vram_bytes);
        format!("{}/1, {vram}", milli(share))
    });
    let foreign = detail.map_or(gpu.vram_foreign_bytes, |detail| detail.vram_foreign_bytes);
    let others = Some(foreign).filter(|foreign| *foreign > 0).map(bytes);
    vec![
        cell(machine),
        cell(gpu.index.to_string()),
        cell(&gpu.model),
        shown(|gpu| gpu.utilisation_percent.map(|busy| format!("{busy} %"))),
        cell(bytes_of(vram.0, vram.1)),
        or_dash(booked),
        or_dash(others),
        shown(power),
        shown(|gpu| gpu.temperature_celsius.map(|heat| format!("{heat} °C"))),
        shown(|gpu| gpu.sm_clock_mhz.map(|clock| format!("{clock} MHz"))),
        lines(
            &[
                detail.map_or_else(Vec::new, gpu_notes),
                gpu.warnings.clone(),
            ]
            .concat(),
        ),
    ]
}

fn power(gpu: &GpuDetail) -> Option<String> {
    let watts = gpu.power_milliwatts? / 1_000;
    Some(match gpu.power_limit_milliwatts {
        Some(limit) => format!("{watts}/{} W", limit / 1_000),
        None => format!("{watts} W"),
    })
}

/// What a person should know of a GPU.
fn gpu_notes(gpu: &GpuDetail) -> Vec<String> {
    let mut notes: Vec<_> = gpu.problem.iter().cloned().collect();
    if !gpu.throttle_reasons.is_empty() {
        notes.push(format!("slowed: {}", gpu.throttle_reasons.join(", ")));
    }
    if !gpu.xids.is_empty() {
        let numbers: Vec<_> = gpu.xids.iter().map(u64::to_string).collect();
        notes.push(format!("XID {}", numbers.join(", ")));
    }
    if let Some(errors) = gpu.ecc_uncorrected.filter(|errors| *errors > 0) {
        notes.push(format!("{errors} uncorrected memory errors"));
    }
    if let Some(pages) = gpu.retired_pages.filter(|pages| *pages > 0) {
        notes.push(format!("{pages} retired pages"));
    }
    notes
}

fn processes(machines: &[MachineView], look: &Look) -> Option<String> {
    let heads = [
        "MACHINE",
        "GPU",
        "PROCESS",
        "PROGRAM",
        "USER",
        "VRAM",
        "BUSY",
        "EXPERIMENT",
    ];
    let mut sheet = Sheet::new(&heads, look);
    let mut is_empty = true;
    for machine in machines {
        for (index, gpu) in details(machine).iter().enumerate() {
            for process in &gpu.processes {
                sheet.row(vec![
                    cell(&machine.node.name),
                    cell(index.to_string()),
                    cell(process.pid.to_string()),
                    or_dash(process.name.clone()),
                    or_dash(process.user.clone()),
                    or_dash(process.vram_bytes.map(bytes)),
                    or_dash(process.utilisation_percent.map(|busy| format!("{busy} %"))),
                    cell(process.attempt.as_deref().unwrap_or("not of muster")),
                ]);
                is_empty = false;
            }
        }
    }
    (!is_empty).then(|| sheet.text())
}
