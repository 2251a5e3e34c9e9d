//! What the kernel counted in a namespace: the figures of `nstat` and `ip -s link`, without those programs.

use std::collections::BTreeMap;

use super::namespace::Namespace;
use crate::LabError;

/// What a receiver counts of wrong checksums. TCP's is for both families.
const CHECKSUM_ERRORS: [&str; 4] = [
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "Udp6InCsumErrors",
    "IpExtInCsumErrors",
];

/// Counters of the namespace's IP and TCP stack, named as in `nstat`: `TcpRetransSegs`, `TcpExtTCPTimeouts`.
#[derive(Clone, Debug, Default)]
pub struct StackCounters(BTreeMap<String, u64>);

impl StackCounters {
    /// Reads them now.
    pub fn of(namespace: &Namespace) -> Result<Self, LabError> {
        namespace.enter(|| {
            let mut counters = Self::default();
            // `thread-self`, not `self`: only this thread is inside the namespace.
            for file in [
                "/proc/thread-self/net/snmp",
                "/proc/thread-self/net/netstat",
            ] {
                counters.add(&std::fs::read_to_string(file).map_err(LabError::file(file))?);
            }
            let file = "/proc/thread-self/net/snmp6";
            counters.add_list(&std::fs::read_to_string(file).map_err(LabError::file(file))?);
            Ok(counters)
        })?
    }

    fn add(&mut self, text: &str) {
        let mut lines = text.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let Some((group, names)) = names.split_once(':') else {
                continue;
            };
            let values = values.split_once(':').map_or("", |(_, values)| values);
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                if let Ok(value) = value.parse() {
                    self.0.insert(format!("{group}{name}"), value);
                }
            }
        }
    }

    /// The IPv6 file has one counter a line, named in full.
    fn add_list(&mut self, text: &str) {
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(char::is_whitespace)
                && let Ok(value) = value.trim().parse()
            {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    /// Packets that the receiver threw away because of their checksum, one sentence for each protocol that had
    /// such.
    pub fn checksum_faults(&self) -> Vec<String> {
        let counts = CHECKSUM_ERRORS.map(|name| (name, self.get(name)));
        let wrong = counts.into_iter().filter(|(_, count)| *count > 0);
        wrong
            .map(|(name, count)| format!("{name} is {count}"))
            .collect()
    }

    /// One counter; 0 if the kernel does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much `name` grew since `earlier`.
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        self.get(name) - earlier.get(name)
    }
}

/// Packets of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Received packets that the driver dropped.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent: on a veth, the other end's queue was full.
    pub tx_dropped: u64,
}

impl InterfaceCounters {
    /// Reads those of `interface` now.
    pub fn of(namespace: &Namespace, interface: &str) -> Result<Self, LabError> {
        let file = "/proc/thread-self/net/dev";
        let text = namespace
            .enter(|| std::fs::read_to_string(file))?
            .map_err(LabError::file(file))?;
        Self::parse(&text, interface).ok_or_else(|| LabError::Form {
            path: file.into(),
            got: "no such interface".to_owned(),
            expected: interface.to_owned(),
        })
    }

    fn parse(text: &str, interface: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| {
            let (name, values) = line.split_once(':')?;
            (name.trim() == interface).then_some(values)
        })?;
        let values: Vec<u64> = line
            .split_whitespace()
            .filter_map(|value| value.parse().ok())
            .collect();
        Some(Self {
            rx_packets: *values.get(1)?,
            rx_dropped: *values.get(3)?,
            tx_packets: *values.get(9)?,
            tx_dropped: *values.get(11)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_nstat_names_them() {
        let mut counters = StackCounters::default();
        counters.add(
            "Tcp: RtoAlgorithm RetransSegs MaxConn\nTcp: 1 42 -1\nTcpExt: TCPTimeouts\nTcpExt: 7\n",
        );
        assert_eq!(counters.get("TcpRetransSegs"), 42);
        assert_eq!(counters.get("TcpExtTCPTimeouts"), 7);
        assert_eq!(
            counters.get("TcpMaxConn"),
            0,
            "negative values are no counters"
        );
    }

    #[test]
    fn wrong_checksums_of_both_families_are_faults() {
        let mut counters = StackCounters::default();
        counters.add("Tcp: InCsumErrors\nTcp: 0\nUdp: InCsumErrors\nUdp: 2\n");
        assert_eq!(counters.checksum_faults(), ["UdpInCsumErrors is 2"]);
        counters.add_list("Udp6InDatagrams                 5\nUdp6InCsumErrors\t1\n");
        assert_eq!(counters.get("Udp6InDatagrams"), 5);
        assert_eq!(counters.checksum_faults().len(), 2);
    }

    #[test]
    fn interface_columns() {
        let text = "face |bytes\n lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let expected = InterfaceCounters {
            rx_packets: 2,
            rx_dropped: 4,
            tx_packets: 10,
            tx_dropped: 12,
        };
        assert_eq!(InterfaceCounters::parse(text, "lo"), Some(expected));
        assert_eq!(InterfaceCounters::parse(text, "eth0"), None);
    }
}
