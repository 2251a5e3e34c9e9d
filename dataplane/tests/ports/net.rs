//! Network namespaces for the tests of this folder.
//!
//! ```text
//!   near                         far
//!   va 10.99.0.1/24 ──veth── vb 10.99.0.2/24
//!      fd99::1/64               fd99::2/64
//! ```
//! A test runs on a thread that has entered `near`; `far` is reached by [`Net::far`]. Names carry the
//! process id and a counter, so that tests and runs don't meet. Dropping the net deletes both.

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub const NEAR_V4: [u8; 4] = [10, 99, 0, 1];
pub const FAR_V4: [u8; 4] = [10, 99, 0, 2];
pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0x99, 1];
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0x99, 2];

/// Fails with what to do if the test cannot run; never passes silently.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces and needs root: run `cargo xtask test`"
    );
}

pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} does not run ({e}): run `cargo xtask test`"));
    assert!(
        out.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub struct Net {
    pub near: String,
    pub far: String,
}

impl Net {
    /// Both namespaces, with `queues` queues at each end of the pair.
    pub fn new(queues: u32) -> Self {
        require_root();
        let id = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let net = Self {
            near: format!("ports-{id}-a"),
            far: format!("ports-{id}-b"),
        };
        for ns in [&net.near, &net.far] {
            run("ip", &["netns", "add", ns]);
            // Duplicate address detection would leave the addresses unusable for a second.
            in_ns(ns, "sysctl", &["-qw", "net.ipv6.conf.default.accept_dad=0"]);
            in_ns(ns, "sysctl", &["-qw", "net.ipv6.conf.all.accept_dad=0"]);
        }
        let n = queues.to_string();
        run(
            "ip",
            &[
                "-n",
                &net.near,
                "link",
                "add",
                "va",
                "address",
                &mac(NEAR_MAC),
                "numtxqueues",
                &n,
                "numrxqueues",
                &n,
                "type",
                "veth",
                "peer",
                "name",
                "vb",
                "netns",
                &net.far,
                "address",
                &mac(FAR_MAC),
                "numtxqueues",
                &n,
                "numrxqueues",
                &n,
            ],
        );
        for (ns, dev, host) in [(&net.near, "va", 1), (&net.far, "vb", 2)] {
            run(
                "ip",
                &[
                    "-n",
                    ns,
                    "addr",
                    "add",
                    &format!("10.99.0.{host}/24"),
                    "dev",
                    dev,
                ],
            );
            run(
                "ip",
                &[
                    "-n",
                    ns,
                    "addr",
                    "add",
                    &format!("fd99::{host}/64"),
                    "dev",
                    dev,
                ],
            );
            run("ip", &["-n", ns, "link", "set", "lo", "up"]);
            run("ip", &["-n", ns, "link", "set", dev, "up"]);
        }
        net
    }

    /// Runs a program in the far namespace.
    pub fn far(&self, program: &str, args: &[&str]) -> String {
        in_ns(&self.far, program, args)
    }

    /// Runs a program in the near namespace.
    pub fn near(&self, program: &str, args: &[&str]) -> String {
        in_ns(&self.near, program, args)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.near, &self.far] {
            // A failure here must not hide the test's own.
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn in_ns(ns: &str, program: &str, args: &[&str]) -> String {
    let mut all = vec!["netns", "exec", ns, program];
    all.extend(args);
    run("ip", &all)
}

/// Moves the calling thread, and those it starts, into a namespace.
pub fn enter(ns: &str) {
    let path = format!("/run/netns/{ns}");
    let fd = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("namespace");
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
}

/// Runs `f` on a thread in `ns` and returns its result.
pub fn on_thread_in<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(ns);
            f()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
