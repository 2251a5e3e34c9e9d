//! Totals of conntrack in this network namespace: `/proc/net/stat/nf_conntrack`.

const FILE: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// Sums over all CPUs; zero where conntrack does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    dropped: u64,
    evicted: u64,
}

impl Stat {
    pub(super) fn now() -> Self {
        std::fs::read_to_string(FILE)
            .map(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    /// A line of names, then one of hexadecimal numbers for each CPU (nf_conntrack_standalone.c, ct_cpu_seq_show).
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let names: Vec<&str> = lines
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let column = |name: &str| names.iter().position(|n| *n == name);
        let (drop, early) = (column("drop"), column("early_drop"));
        let mut stat = Self::default();
        for line in lines {
            let values: Vec<&str> = line.split_whitespace().collect();
            let value = |at: Option<usize>| {
                at.and_then(|at| values.get(at))
                    .and_then(|text| u64::from_str_radix(text, 16).ok())
                    .unwrap_or(0)
            };
            stat.dropped += value(drop);
            stat.evicted += value(early);
        }
        stat
    }

    /// Packets dropped and entries evicted for want of room since `before`.
    pub(super) fn since(&self, before: &Self) -> (u64, u64) {
        (
            self.dropped.saturating_sub(before.dropped),
            self.evicted.saturating_sub(before.evicted),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_summed() {
        let text = "entries  clashres found drop early_drop icmp_error\n\
                    00000004 00000000 00000001 0000000a 00000003 00000000\n\
                    00000004 00000000 00000001 00000010 00000001 00000000\n";
        let now = Stat::parse(text);
        assert_eq!(now.since(&Stat::default()), (26, 4));
        assert_eq!(Stat::parse(""), Stat::default());
        assert_eq!(
            Stat::default().since(&now),
            (0, 0),
            "a namespace's counters began anew"
        );
    }
}
