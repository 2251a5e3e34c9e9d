//! Failures of send calls, counted by name.

use crate::port::CounterSink;
use rustix::io::Errno;

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

#[derive(Debug, Default)]
pub(crate) struct ErrnoCounts {
    named: [u64; NAMED.len()],
    other: u64,
}

impl ErrnoCounts {
    #[cold]
    pub(crate) fn count(&mut self, errno: Errno) {
        match NAMED.iter().position(|&(e, _)| e == errno) {
            Some(at) => self.named[at] += 1,
            None => self.other += 1,
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
