//! Latency histograms of one worker.

use common::flow::Nanos;
use hdrhistogram::Histogram;
use session::Metric;

/// Values above one hour are recorded as one hour.
const MAX_NS: u64 = 3_600_000_000_000;
/// Three digits: 0.1 % error, about 300 KiB a histogram.
const DIGITS: u8 = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latency {
    /// SYN sent to SYN-ACK seen.
    Connect,
    /// Request sent to first byte of the answer seen.
    Response,
    /// Capture in the kernel to transmit, without what was deliberate.
    Processing,
    /// Deliberate waiting.
    Hold,
    /// Behind the captured schedule.
    Lag,
}

impl Latency {
    /// Every one, in report order.
    pub const ALL: [Self; 5] = [
        Self::Connect,
        Self::Response,
        Self::Processing,
        Self::Hold,
        Self::Lag,
    ];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Response => "response",
            Self::Processing => "processing",
            Self::Hold => "hold",
            Self::Lag => "lag",
        }
    }
}

impl From<Metric> for Latency {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::Connect => Self::Connect,
            Metric::Response => Self::Response,
            Metric::Hold => Self::Hold,
            Metric::Lag => Self::Lag,
        }
    }
}

/// One histogram per [`Latency`], in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies {
    histograms: [Histogram<u64>; Latency::ALL.len()],
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            histograms: std::array::from_fn(|_| empty_histogram()),
        }
    }
}

fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, DIGITS).expect("bounds and digits are valid constants")
}

impl Latencies {
    /// Records a value. Does not allocate.
    #[inline]
    pub fn record(&mut self, what: Latency, value: Nanos) {
        if let Some(h) = self.histograms.get_mut(what as usize) {
            h.saturating_record(value.0);
        }
    }

    /// Adds another worker's values.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Fails only for values beyond the bounds, which are the same.
            let _ = mine.add(theirs);
        }
    }

    /// A histogram, nanoseconds.
    pub fn get(&self, what: Latency) -> &Histogram<u64> {
        &self.histograms[what as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_apart_and_merged() {
        let mut a = Latencies::default();
        let mut b = Latencies::default();
        a.record(Latency::Connect, Nanos::from_micros(100));
        b.record(Latency::Connect, Nanos::from_micros(300));
        b.record(Latency::Lag, Nanos::from_secs(100_000));
        a.merge(&b);
        assert_eq!(a.get(Latency::Connect).len(), 2);
        assert_eq!(a.get(Latency::Lag).len(), 1);
        assert_eq!(a.get(Latency::Hold).len(), 0);
        let max = a.get(Latency::Connect).max();
        assert!(max.abs_diff(300_000) < 300, "{max}");
        assert!(a.get(Latency::Lag).max() >= MAX_NS);
    }
}
