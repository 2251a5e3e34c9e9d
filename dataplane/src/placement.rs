//! Who serves which receive queue, said once at the start.
//!
//! ```text
//!  RSS table ─▶ receive queue ─▶ AF_XDP socket ─▶ worker (queue mod workers) ─▶ core ─▶ memory node
//!                     │                                                               should be the NIC's
//!                     └─ with tap: any CPU ─▶ worker by the flow's hash
//! ```

use crate::cores::{CoreList, ranges};
use crate::iface::Interface;
use std::collections::BTreeMap;
use std::path::Path;

/// Folder of the machine's memory nodes (Documentation/ABI/stable/sysfs-devices-node).
const NODES: &str = "/sys/devices/system/node";

/// How one receive queue is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSocket {
    /// Queue.
    pub queue: u32,
    /// The driver runs the XDP program, not the generic hook.
    pub native: bool,
    /// The NIC writes into our memory.
    pub zero_copy: bool,
}

impl QueueSocket {
    const fn mode(self) -> &'static str {
        match (self.native, self.zero_copy) {
            (true, true) => "native, zero-copy",
            (true, false) => "native, copy",
            (false, _) => "generic, copy",
        }
    }
}

/// Logs queues, workers, cores and the RSS table of `ifname`, and a hint if cores are on another memory node.
///
/// `sockets` are those of the queues; empty with `tap`, which takes packets of every queue on whatever CPU.
/// `cores[n]` is worker `n`'s; workers beyond it are not pinned.
pub fn log(ifname: &str, workers: usize, cores: &[usize], sockets: &[QueueSocket]) {
    let Ok(interface) = Interface::by_name(ifname) else {
        return;
    };
    let rss = interface.rss_indirection();
    let rx_queues = interface.rx_queues;
    let entries = rss.as_deref().map(spread);
    if let (Some(table), Some(spread)) = (&rss, &entries) {
        tracing::info!(
            interface = ifname,
            entries = table.len(),
            queues = ranges(&spread.keys().map(|q| *q as usize).collect::<Vec<_>>()),
            "RSS indirection"
        );
    } else {
        tracing::info!(
            interface = ifname,
            queues = rx_queues,
            "RSS indirection: the driver shows no table"
        );
    }
    for socket in sockets {
        let worker = socket.queue as usize % workers.max(1);
        let rss = entries
            .as_ref()
            .map(|spread| spread.get(&socket.queue).copied().unwrap_or(0));
        tracing::info!(
            interface = ifname,
            queue = socket.queue,
            worker,
            core = core(cores, worker),
            mode = socket.mode(),
            rss_entries = rss,
            "receive queue"
        );
    }
    for worker in 0..workers {
        if sockets.is_empty() {
            tracing::info!(
                interface = ifname,
                queues = rx_queues,
                worker,
                core = core(cores, worker),
                "worker takes its share of flows from every queue and CPU"
            );
        } else if worker >= sockets.len() {
            tracing::info!(
                interface = ifname,
                worker,
                core = core(cores, worker),
                "worker without a receive queue: gets flows from those with one"
            );
        }
    }
    if let Some(node) = interface.numa_node()
        && let Some(hint) = numa_hint(ifname, node, cores, &nodes(Path::new(NODES)))
    {
        tracing::warn!("{hint}");
    }
}

fn core(cores: &[usize], worker: usize) -> String {
    cores
        .get(worker)
        .map_or_else(|| "any".to_owned(), ToString::to_string)
}

/// Entries of the table by queue.
fn spread(table: &[u32]) -> BTreeMap<u32, usize> {
    let mut spread = BTreeMap::new();
    for queue in table {
        *spread.entry(*queue).or_insert(0) += 1;
    }
    spread
}

/// Cores by memory node; nodes without a core (memory only) are left out.
fn nodes(folder: &Path) -> BTreeMap<u32, Vec<usize>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let node = name.to_str()?.strip_prefix("node")?.parse().ok()?;
            let list = std::fs::read_to_string(entry.path().join("cpulist")).ok()?;
            let cores: CoreList = list.trim().parse().ok()?;
            Some((node, cores.cores().to_vec()))
        })
        .collect()
}

/// What to say if workers are, or may come, on another node than the interface.
fn numa_hint(
    ifname: &str,
    node: u32,
    cores: &[usize],
    nodes: &BTreeMap<u32, Vec<usize>>,
) -> Option<String> {
    let near = nodes.get(&node)?;
    if nodes.len() < 2 {
        return None;
    }
    let advice = format!("cores {} are next to it", ranges(near));
    if cores.is_empty() {
        return Some(format!(
            "{ifname} is on memory node {node} and workers are not pinned: {advice} (--cores)"
        ));
    }
    let far: Vec<String> = nodes
        .iter()
        .filter(|(other, _)| **other != node)
        .filter_map(|(other, theirs)| {
            let mut used: Vec<usize> = cores
                .iter()
                .copied()
                .filter(|core| theirs.contains(core))
                .collect();
            used.sort_unstable();
            (!used.is_empty()).then(|| format!("cores {} on node {other}", ranges(&used)))
        })
        .collect();
    (!far.is_empty()).then(|| {
        format!(
            "{ifname} is on memory node {node}, {}: packets cross the link between nodes; {advice} (--cores)",
            far.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes() -> BTreeMap<u32, Vec<usize>> {
        BTreeMap::from([(0, vec![0, 1, 2, 3]), (1, vec![4, 5, 6, 7])])
    }

    #[test]
    fn cores_of_another_node_are_named_with_the_near_ones() {
        assert_eq!(
            numa_hint("eth0", 1, &[3, 0, 4], &two_nodes()).as_deref(),
            Some(
                "eth0 is on memory node 1, cores 0,3 on node 0: packets cross the link between nodes; \
                 cores 4-7 are next to it (--cores)"
            )
        );
        assert_eq!(
            numa_hint("eth0", 0, &[], &two_nodes()).as_deref(),
            Some(
                "eth0 is on memory node 0 and workers are not pinned: cores 0-3 are next to it (--cores)"
            )
        );
    }

    #[test]
    fn nothing_is_said_where_there_is_nothing_to_choose() {
        assert_eq!(numa_hint("eth0", 1, &[4, 7], &two_nodes()), None);
        assert_eq!(numa_hint("eth0", 2, &[0], &two_nodes()), None);
        let one = BTreeMap::from([(0, vec![0, 1])]);
        assert_eq!(numa_hint("eth0", 0, &[], &one), None);
    }

    #[test]
    fn nodes_are_read_and_those_without_cores_left_out() {
        let folder = std::env::temp_dir().join(format!("placement-{}", std::process::id()));
        for (name, list) in [("node0", "0-1,4\n"), ("node1", "2-3\n"), ("node2", "\n")] {
            std::fs::create_dir_all(folder.join(name)).expect("folder");
            std::fs::write(folder.join(name).join("cpulist"), list).expect("list");
        }
        std::fs::create_dir_all(folder.join("power")).expect("folder");
        let read = nodes(&folder);
        std::fs::remove_dir_all(&folder).expect("remove");
        assert_eq!(read, BTreeMap::from([(0, vec![0, 1, 4]), (1, vec![2, 3])]));
        assert_eq!(nodes(Path::new("/nonexistent")), BTreeMap::new());
    }

    #[test]
    fn the_rss_table_is_counted_by_queue() {
        let counted = BTreeMap::from([(0, 3), (2, 1)]);
        assert_eq!(spread(&[0, 2, 0, 0]), counted);
    }
}
