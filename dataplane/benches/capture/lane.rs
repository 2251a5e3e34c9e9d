//! A veth pair between two namespaces of its own: `va` in `far`, `vb` in `near`.

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use crate::ebpf_support::netns::run;

/// The pair. The namespaces have no name: they end with the last descriptor and thread in them.
pub struct Lane {
    far: File,
    near: File,
}

impl Lane {
    /// Both ends up. Frames of `ebpf_support::frames` are for another host here, so that the stack drops
    /// them as early as it can: what comes after the capture is the same for all ways, and small.
    pub fn new() -> Self {
        let lane = Self {
            far: namespace(),
            near: namespace(),
        };
        let far = format!("/proc/{}/fd/{}", std::process::id(), lane.far.as_raw_fd());
        lane.near(|| {
            quiet();
            ip(
                "link add vb address 02:00:00:00:00:bb numtxqueues 1 numrxqueues 1 type veth \
                peer name va netns FAR numtxqueues 1 numrxqueues 1"
                    .replace("FAR", &far)
                    .as_str(),
            );
            ip("addr add 10.99.0.2/24 dev vb");
            ip("link set lo up");
            ip("link set vb up");
            // With GRO, veth receives by NAPI as drivers of network cards do, whatever is attached
            // (drivers/net/veth.c, veth_set_features); frames that are redirected to it need that.
            run("ethtool", &["-K", "vb", "gro", "on"]);
        });
        lane.far(|| {
            quiet();
            ip("addr add 10.99.0.1/24 dev va");
            ip("link set lo up");
            ip("link set va up");
        });
        lane
    }

    /// Runs `work` on a thread in the receiver's namespace.
    pub fn near<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_thread(&self.near, work)
    }

    /// Runs `work` on a thread in the sender's namespace.
    pub fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_thread(&self.far, work)
    }

    /// Packets that `vb` has received.
    pub fn arrived(&self) -> u64 {
        self.near(|| received("vb"))
    }

    /// Packets that `va` has received.
    pub fn returned(&self) -> u64 {
        self.far(|| received("va"))
    }
}

fn namespace() -> File {
    std::thread::spawn(|| {
        // SAFETY: the new thread shares its network namespace only, which nothing in this process
        // relies on, with the others; NEWNET changes nothing else.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("new network namespace");
        File::open("/proc/thread-self/ns/net").expect("namespace")
    })
    .join()
    .expect("thread")
}

fn on_thread<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter namespace");
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// No neighbour discovery and the like: packets are those of the measurement.
fn quiet() {
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("sysctl");
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("sysctl");
}

fn ip(arguments: &str) {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>());
}

fn received(ifname: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("net/dev");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(ifname)?.strip_prefix(':'))
        .expect("interface");
    // Bytes, packets.
    let packets = line.split_whitespace().nth(1).expect("column");
    packets.parse().expect("number")
}
