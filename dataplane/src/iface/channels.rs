//! What netlink's link messages do not say: queues in use (they give the allocated ones) the memory node and the driver.

use super::ethtool;
use std::fs;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queues {
    pub(super) rx: Option<u32>,
    pub(super) tx: Option<u32>,
}

/// Asks sysfs, which counts the queues of every driver but shows the namespace it was mounted in, then
/// the driver.
pub(super) fn queues(name: &str, index: u32) -> Queues {
    from_sysfs(name, index)
        .or_else(|| from_driver(name))
        .unwrap_or_default()
}

fn from_sysfs(name: &str, index: u32) -> Option<Queues> {
    let dir = folder(name, index)?;
    let (mut rx, mut tx) = (0, 0);
    for entry in fs::read_dir(format!("{dir}/queues")).ok()? {
        let queue = entry.ok()?.file_name();
        let queue = queue.to_string_lossy();
        rx += u32::from(queue.starts_with("rx-"));
        tx += u32::from(queue.starts_with("tx-"));
    }
    Some(Queues {
        rx: (rx > 0).then_some(rx),
        tx: (tx > 0).then_some(tx),
    })
}

/// Memory node of the device behind an interface; none for virtual ones and on machines without nodes.
pub(super) fn numa_node(name: &str, index: u32) -> Option<u32> {
    let dir = folder(name, index)?;
    // -1, which is no u32, where the firmware does not say (Documentation/ABI/testing/sysfs-bus-pci).
    fs::read_to_string(format!("{dir}/device/numa_node"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The driver of the device behind an interface; none for virtual ones.
pub(super) fn driver(name: &str, index: u32) -> Option<String> {
    let link = fs::read_link(format!("{}/device/driver", folder(name, index)?)).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Features that a virtio device and its driver have agreed on, by bit; none for other devices.
pub(super) fn virtio_features(name: &str, index: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("{}/device/features", folder(name, index)?)).ok()?;
    feature_bits(text.trim())
}

/// The kernel writes a character for each of 64 bits, bit 0 first (drivers/virtio/virtio.c, features_show).
fn feature_bits(text: &str) -> Option<u64> {
    let bits = text.bytes().take(64).enumerate();
    bits.into_iter().try_fold(0, |all, (bit, c)| match c {
        b'0' => Some(all),
        b'1' => Some(all | 1 << bit),
        _ => None,
    })
}

/// The interface's folder in sysfs, if that shows the calling thread's namespace.
fn folder(name: &str, index: u32) -> Option<String> {
    let dir = format!("/sys/class/net/{name}");
    let seen: u32 = fs::read_to_string(format!("{dir}/ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    // Same name, other namespace: compare what cannot be equal by accident as easily as the name.
    (seen == index && sysfs_is_ours()).then_some(dir)
}

/// True if /sys/class/net lists the same interfaces as the calling thread's namespace: a thread that
/// changed its namespace still sees the sysfs of the old one.
fn sysfs_is_ours() -> bool {
    let names = |path: &str| -> Option<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(path)
            .ok()?
            .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()
            .ok()?;
        names.sort();
        Some(names)
    };
    // Of the calling thread's namespace, since procfs resolves it at open.
    let Ok(table) = fs::read_to_string("/proc/thread-self/net/dev") else {
        return false;
    };
    let mut ours: Vec<String> = table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    ours.sort();
    names("/sys/class/net").is_some_and(|seen| {
        // bonding_masters is a file of the bonding driver, not an interface.
        seen.iter()
            .filter(|n| *n != "bonding_masters")
            .eq(ours.iter())
    })
}

fn from_driver(name: &str) -> Option<Queues> {
    let channels = ethtool::channels(name)?;
    let rx = channels.rx_count + channels.combined_count;
    let tx = channels.tx_count + channels.combined_count;
    Some(Queues {
        rx: (rx > 0).then_some(rx),
        tx: (tx > 0).then_some(tx),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_features_are_read_from_the_lowest_bit() {
        assert_eq!(feature_bits("1101"), Some(0b1011));
        assert_eq!(feature_bits(&"1".repeat(64)), Some(u64::MAX));
        assert_eq!(feature_bits("10x"), None);
        assert_eq!(virtio_features("lo", 1), None);
    }
}
