//! Queues in use, which netlink's link messages do not say (they give the allocated ones).

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// `ETHTOOL_GCHANNELS`, include/uapi/linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queues {
    pub(super) rx: Option<u32>,
    pub(super) tx: Option<u32>,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// Asks sysfs, which counts the queues of every driver but shows the namespace it was mounted in, then
/// the driver.
pub(super) fn queues(name: &str, index: u32) -> Queues {
    from_sysfs(name, index)
        .or_else(|| from_driver(name))
        .unwrap_or_default()
}

fn from_sysfs(name: &str, index: u32) -> Option<Queues> {
    let dir = format!("/sys/class/net/{name}");
    let seen: u32 = fs::read_to_string(format!("{dir}/ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    // Same name, other namespace: compare what cannot be equal by accident as easily as the name.
    if seen != index || !sysfs_is_ours() {
        return None;
    }
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
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()?;
    let channels = get_channels(&socket, name)?;
    let rx = channels.rx_count + channels.combined_count;
    let tx = channels.tx_count + channels.combined_count;
    Some(Queues {
        rx: (rx > 0).then_some(rx),
        tx: (tx > 0).then_some(tx),
    })
}

fn get_channels(socket: &OwnedFd, name: &str) -> Option<Channels> {
    if name.len() >= libc::IFNAMSIZ {
        return None;
    }
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq with a terminated name (checked: shorter than the field) whose
    // data points at a struct that begins with its command; ETHTOOL_GCHANNELS writes an
    // ethtool_channels, which is what it points at. Both outlive the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    (answer == 0).then_some(channels)
}
