//! The books of UDP: every copy of a captured datagram was sent, or dropped for one cause.

/// Why a copy of a captured datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpDrop {
    /// Its client is not replayed (`-r`, `-g`).
    NotSelected,
    /// The client's address family is not the target's, and no `-c` gives it another one.
    OtherFamily,
    /// The capture has not all of its bytes.
    CutByCapture,
    /// A new flow, and there are as many as memory allows.
    TableFull,
    /// A new flow, and every port of its wire address is in use.
    NoWirePort,
    /// Destination was no target: a bug upstream, stopped.
    NotATarget,
    /// Next hop unknown at the time.
    NoNextHop,
    /// All transmit frames were in flight.
    NoFrame,
    /// Larger than a packet can be (towards IPv6 addresses of `-c`, from IPv4), or than a transmit frame.
    NotBuilt,
}

impl UdpDrop {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::NotSelected,
        Self::OtherFamily,
        Self::CutByCapture,
        Self::TableFull,
        Self::NoWirePort,
        Self::NotATarget,
        Self::NoNextHop,
        Self::NoFrame,
        Self::NotBuilt,
    ];

    /// Name in reports: `snake_case`, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotSelected => "not_selected",
            Self::OtherFamily => "other_family",
            Self::CutByCapture => "cut_by_capture",
            Self::TableFull => "table_full",
            Self::NoWirePort => "no_wire_port",
            Self::NotATarget => "not_a_target",
            Self::NoNextHop => "no_next_hop",
            Self::NoFrame => "no_frame",
            Self::NotBuilt => "not_built",
        }
    }
}

/// Sums over all flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpTotals {
    /// Flows begun: one for each client endpoint and online endpoint, again after it was idle.
    pub flows: u64,
    /// Flows that were idle and gave their wire endpoints back.
    pub flows_expired: u64,
    /// Flows that are live.
    pub flows_open: u64,
    /// Packets that a mirror sent again, which are not among those captured.
    pub duplicates: u64,
    /// Datagrams captured.
    pub captured: u64,
    /// Copies due: captured datagrams times `-n`.
    pub copies: u64,
    /// Copies handed to a transmit port.
    pub sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// Copies not sent, by [`UdpDrop`].
    pub dropped: [u64; UdpDrop::ALL.len()],
}

impl UdpTotals {
    pub(super) fn lose(&mut self, why: UdpDrop, copies: u64) {
        if let Some(n) = self.dropped.get_mut(why as usize) {
            *n += copies;
        }
    }

    /// Copies dropped for a cause.
    pub fn dropped(&self, why: UdpDrop) -> u64 {
        self.dropped.get(why as usize).copied().unwrap_or(0)
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.flows += other.flows;
        self.flows_expired += other.flows_expired;
        self.flows_open += other.flows_open;
        self.duplicates += other.duplicates;
        self.captured += other.captured;
        self.copies += other.copies;
        self.sent += other.sent;
        self.bytes_sent += other.bytes_sent;
        for (a, b) in self.dropped.iter_mut().zip(other.dropped) {
            *a += b;
        }
    }

    /// Every copy was sent or dropped, and every flow is open or expired.
    pub fn balanced(&self) -> bool {
        self.copies == self.sent + self.dropped.iter().sum::<u64>()
            && self.flows == self.flows_expired + self.flows_open
    }
}
