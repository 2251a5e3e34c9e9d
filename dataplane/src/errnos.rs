//! Failures of send calls: counted by name, and said once for as long as they go on.

use crate::port::CounterSink;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// After this long without a failure of a kind the next one is news again.
const QUIET: Duration = Duration::from_secs(10);

/// What sends fail with in practice; everything else is counted together.
const NAMED: [(Errno, &str); 14] = [
    (Errno::PERM, "tx_error_eperm"),
    (Errno::ACCESS, "tx_error_eacces"),
    (Errno::AGAIN, "tx_error_eagain"),
    (Errno::BUSY, "tx_error_ebusy"),
    (Errno::NOBUFS, "tx_error_enobufs"),
    (Errno::NOMEM, "tx_error_enomem"),
    (Errno::MSGSIZE, "tx_error_emsgsize"),
    (Errno::INVAL, "tx_error_einval"),
    (Errno::NETDOWN, "tx_error_enetdown"),
    (Errno::NETUNREACH, "tx_error_enetunreach"),
    (Errno::HOSTUNREACH, "tx_error_ehostunreach"),
    (Errno::NODEV, "tx_error_enodev"),
    (Errno::NXIO, "tx_error_enxio"),
    (Errno::OPNOTSUPP, "tx_error_eopnotsupp"),
];

/// What it means and what to do.
fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "the firewall of this host drops them (OUTPUT rules, a full conntrack table); except them, see \
             docs/operations.md"
        }
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => {
            "the device or its queue takes no more; nothing to do if it passes, else less load"
        }
        Errno::BUSY => {
            "the device dropped them: its queue is full, or it has no carrier; look at `ip -s link`"
        }
        Errno::MSGSIZE => {
            "they are larger than the MTU of the interface; it is followed, else lower -M"
        }
        Errno::NETDOWN => "the interface is down; set it up",
        Errno::NETUNREACH | Errno::HOSTUNREACH => "there is no route; look at `ip route get`",
        Errno::NODEV | Errno::NXIO => "the interface is gone",
        _ => "the kernel refuses them",
    }
}

#[derive(Debug)]
pub(crate) struct ErrnoCounts {
    /// What is sent on, for the log.
    port: String,
    named: [u64; NAMED.len()],
    other: u64,
    /// When each kind happened last; the last place is for those without a name.
    last: [Option<Instant>; NAMED.len() + 1],
}

impl ErrnoCounts {
    pub(crate) fn new(port: String) -> Self {
        Self {
            port,
            named: [0; NAMED.len()],
            other: 0,
            last: [None; NAMED.len() + 1],
        }
    }

    #[cold]
    pub(crate) fn count(&mut self, errno: Errno) {
        let named = NAMED.iter().position(|&(e, _)| e == errno);
        match named {
            Some(at) => self.named[at] += 1,
            None => self.other += 1,
        }
        let now = Instant::now();
        let last = self.last[named.unwrap_or(NAMED.len())].replace(now);
        if last.is_none_or(|last| now.duration_since(last) >= QUIET) {
            self.say(errno);
        }
    }

    fn say(&self, errno: Errno) {
        let (port, advice) = (&self.port, advice(errno));
        // A full buffer is how sending is paced; it is news to nobody but whoever looks for it.
        if errno == Errno::AGAIN {
            tracing::debug!(%port, error = %errno, "packets wait: {advice}");
        } else {
            tracing::warn!(
                %port,
                error = %errno,
                "packets are not sent, their sessions send again: {advice}"
            );
        }
    }

    /// Reports those that happened.
    pub(crate) fn report(&self, sink: CounterSink<'_>) {
        for (&n, (_, name)) in self.named.iter().zip(NAMED) {
            if n > 0 {
                sink(name, n);
            }
        }
        if self.other > 0 {
            sink("tx_error_other", self.other);
        }
    }
}
