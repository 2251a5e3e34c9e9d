//! Network namespaces of a test, gone with the value.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Two namespaces joined by a veth pair: `va` in `far`, `vb` in `near`.
pub struct Pair {
    pub far: String,
    pub near: String,
}

impl Pair {
    /// `queues` on both ends.
    pub fn new(queues: u32) -> Self {
        let id = format!(
            "ebpf-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let pair = Self {
            far: format!("{id}-a"),
            near: format!("{id}-b"),
        };
        ip(&["netns", "add", &pair.far]);
        ip(&["netns", "add", &pair.near]);
        let queues = queues.to_string();
        ip(&[
            "-n",
            &pair.far,
            "link",
            "add",
            "va",
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            "vb",
            "netns",
            &pair.near,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
        ]);
        for (ns, dev, addr) in [
            (&pair.far, "va", "10.99.0.1"),
            (&pair.near, "vb", "10.99.0.2"),
        ] {
            // No neighbour discovery and the like: counters stay those of the test.
            run(
                "ip",
                &[
                    "netns",
                    "exec",
                    ns,
                    "sysctl",
                    "-qw",
                    "net.ipv6.conf.all.disable_ipv6=1",
                ],
            );
            ip(&["-n", ns, "addr", "add", &format!("{addr}/24"), "dev", dev]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "set", dev, "up"]);
        }
        // Where test frames go (frames.rs), so that the stack takes them.
        ip(&[
            "-n",
            &pair.near,
            "link",
            "set",
            "vb",
            "address",
            "02:00:00:00:00:02",
        ]);
        pair
    }

    /// Moves this thread into the near namespace.
    pub fn enter_near(&self) {
        enter(&self.near);
    }

    /// Moves this thread into the far namespace.
    pub fn enter_far(&self) {
        enter(&self.far);
    }

    /// Runs a program in the near namespace and returns what it printed.
    pub fn near(&self, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.near], arguments].concat())
    }

    /// The same in the far one.
    pub fn far(&self, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.far], arguments].concat())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for ns in [&self.far, &self.near] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn enter(ns: &str) {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )
    .unwrap();
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

/// Runs a program; its failure is the test's.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// TCP segments that the stack of this thread's namespace has received.
pub fn tcp_segments() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|l| l.starts_with("Tcp:"));
    let names: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let values: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let at = names.iter().position(|n| *n == "InSegs").unwrap();
    values[at].parse().unwrap()
}
