//! From the lines of the capture benchmark to ratios.
//!
//! ```text
//!   slots (round, load, way) ── rounds with foreign load dropped ──▶ ratio per round ──▶ median, range
//! ```

use std::collections::BTreeSet;

use serde_json::Value;

/// A median with its range from the tenth to the ninetieth percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    /// Number of values.
    pub values: usize,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (share * values.len().saturating_sub(1) as f64).round();
            values.get(index as usize).copied()
        };
        Some(Self {
            median: at(0.5)?,
            low: at(0.1)?,
            high: at(0.9)?,
            values: values.len(),
        })
    }
}

/// All lines of one scenario and size.
pub struct Lines(Vec<Value>);

impl Lines {
    /// Parses what the benchmark printed; other text is for people.
    pub fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter_map(|l| serde_json::from_str(l).ok())
                .collect(),
        )
    }

    /// Share of the machine that others had in each round.
    fn foreign(&self) -> impl Iterator<Item = (u64, f64)> {
        self.0
            .iter()
            .filter_map(|l| Some((l["round"].as_u64()?, l["foreign"].as_f64()?)))
    }

    /// How many rounds there were, and those in which others left the machine alone.
    pub fn rounds(&self) -> (usize, BTreeSet<u64>) {
        let calm = self.0.iter().filter(|l| l["calm"] == true);
        (
            self.foreign().count(),
            calm.filter_map(|l| l["round"].as_u64()).collect(),
        )
    }

    /// Median share that others had.
    pub fn foreign_median(&self) -> f64 {
        Spread::of(self.foreign().map(|(_, f)| f).collect()).map_or(0.0, |s| s.median)
    }

    /// Lines that are not of a round.
    pub fn facts(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|l| l["round"].is_null())
    }

    /// The line of a round in which all of `fields` have these values.
    pub fn find(&self, round: u64, fields: &[(&str, &str)]) -> Option<&Value> {
        self.0.iter().find(|line| {
            line["round"].as_u64() == Some(round)
                && line["foreign"].is_null()
                && fields.iter().all(|(name, value)| line[*name] == *value)
        })
    }
}

/// What `value` makes of each of the rounds.
pub fn over(rounds: &BTreeSet<u64>, value: impl Fn(u64) -> Option<f64>) -> Option<Spread> {
    Spread::of(rounds.iter().filter_map(|r| value(*r)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range_of_values() {
        let spread = Spread::of((0..=10).rev().map(f64::from).collect()).expect("values");
        assert_eq!(
            (spread.median, spread.low, spread.high, spread.values),
            (5.0, 1.0, 9.0, 11)
        );
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(
            Spread::of(vec![f64::NAN]),
            None,
            "a rate of no time is no value"
        );
    }

    #[test]
    fn rounds_with_foreign_load_are_dropped() {
        let lines = Lines::parse(
            "loaded\n\
             {\"round\":0,\"way\":\"a\",\"ns\":10}\n{\"round\":0,\"foreign\":0.01,\"calm\":true}\n\
             {\"round\":1,\"way\":\"a\",\"ns\":99}\n{\"round\":1,\"foreign\":0.5,\"calm\":false}\n",
        );
        let (all, calm) = lines.rounds();
        assert_eq!(
            (all, calm.iter().copied().collect::<Vec<_>>()),
            (2, vec![0])
        );
        let ns = |round| lines.find(round, &[("way", "a")])?["ns"].as_f64();
        let spread = over(&calm, ns).expect("a value");
        assert_eq!((spread.median, spread.values), (10.0, 1));
    }
}
