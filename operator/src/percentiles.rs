//! Histograms in reports.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Points of a histogram, in microseconds; all zero if it is empty.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// Number of values.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

impl Percentiles {
    /// Of a histogram in nanoseconds.
    pub fn of(h: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |q: f64| us(h.value_at_quantile(q));
        Self {
            count: h.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: us(h.max()),
        }
    }
}
