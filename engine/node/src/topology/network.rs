//! Which CPUs the interrupts of network queues come to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{list, text};
use crate::config::cpu_list_from_text;

/// The interrupt of a queue of a network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkInterrupt {
    /// What the device is called.
    pub device: String,
    /// The interrupt's number.
    pub irq: u32,
    /// CPUs that it comes to: one, if the kernel says which of those that it may come to.
    pub cpus: Vec<u16>,
}

/// Those of every network device here, by device and number; none in most containers.
#[must_use]
pub fn network_interrupts() -> Vec<NetworkInterrupt> {
    network_interrupts_in(Path::new("/"))
}

/// The same by the files below `root`.
#[must_use]
pub fn network_interrupts_in(root: &Path) -> Vec<NetworkInterrupt> {
    let mut all = Vec::new();
    for device in network_devices(root) {
        let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for irq in interrupts_of(root, &device) {
            let folder = root.join(format!("proc/irq/{irq}"));
            let effective = text(&folder.join("effective_affinity_list")).and_then(|text| cpu_list_from_text(&text));
            let cpus = effective.filter(|cpus| !cpus.is_empty()).or_else(|| list(&folder.join("smp_affinity_list")));
            all.push(NetworkInterrupt { device: name.clone(), irq, cpus: cpus.unwrap_or_default() });
        }
    }
    all
}

/// The folders of all network devices, without `root`, by name.
#[must_use]
pub fn network_devices(root: &Path) -> Vec<PathBuf> {
    let devices = std::fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
    let mut devices: Vec<PathBuf> =
        devices.filter_map(|device| device.path().strip_prefix(root).ok().map(Path::to_owned)).collect();
    devices.sort();
    devices
}

/// The interrupts of a network device's queues, by number.
#[must_use]
pub fn interrupts_of(root: &Path, device: &Path) -> BTreeSet<u32> {
    // Of a PCI device; a virtio device's are its parent's.
    let folders = ["device/msi_irqs", "device/../msi_irqs"].map(|folder| root.join(device).join(folder));
    let entries = folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
