//! The report that tcpcopy writes with `--report FILE`.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::LabError;

/// The parts of the report that the lab looks at, and the whole as it was.
#[derive(Clone, Debug)]
pub struct ExitReport {
    /// Everything.
    pub json: Value,
}

impl ExitReport {
    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| form(path, &error.to_string(), "JSON"))?;
        let report = Self { json };
        if report.json["version"] != 1 {
            return Err(form(
                path,
                &format!("version {}", report.json["version"]),
                "version 1",
            ));
        }
        for part in ["sessions", "bytes", "packets", "latency_us"] {
            if !report.json[part].is_object() {
                return Err(form(path, "no such object", part));
            }
        }
        Ok(report)
    }

    /// A number at `path`, words separated by `/`; 0 if there is none.
    pub fn number(&self, path: &str) -> u64 {
        self.json
            .pointer(&format!("/{path}"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// The numbers of the object at `path`.
    pub fn numbers(&self, path: &str) -> BTreeMap<String, u64> {
        let object = self
            .json
            .pointer(&format!("/{path}"))
            .and_then(Value::as_object);
        object
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
            .collect()
    }

    /// Sessions by outcome.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        self.numbers("sessions/by_outcome")
    }

    /// What the books of sessions and bytes get wrong, one sentence each: every session has one outcome, and every
    /// captured byte is delivered or booked under one.
    pub fn imbalance(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut equal = |what: &str, whole: u64, parts: u64| {
            if whole != parts {
                faults.push(format!("{what}: {whole}, but the parts make {parts}"));
            }
        };
        let outcomes = self.outcomes().values().sum();
        equal("sessions", self.number("sessions/total"), outcomes);
        let undelivered: u64 = self.numbers("bytes/undelivered").values().sum();
        let booked = self.number("bytes/delivered") + undelivered;
        equal("bytes captured", self.number("bytes/captured"), booked);
        faults
    }

    /// Packets that were lost on the way in or out, all causes.
    pub fn dropped(&self) -> u64 {
        self.numbers("packets/dropped").values().sum()
    }
}

fn form(path: &Path, got: &str, expected: &str) -> LabError {
    LabError::Form {
        path: path.to_owned(),
        got: got.to_owned(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_path() {
        let json = serde_json::json!({"packets": {"captured": 5, "dropped": {"ring": 2, "tx": 1}}});
        let report = ExitReport { json };
        assert_eq!(
            (
                report.number("packets/captured"),
                report.number("packets/none")
            ),
            (5, 0)
        );
        assert_eq!(report.dropped(), 3);
        assert!(report.outcomes().is_empty());
    }

    #[test]
    fn books_that_do_not_balance_are_named() {
        let report = |captured: u64, total: u64| ExitReport {
            json: serde_json::json!({
                "sessions": {"total": total, "by_outcome": {"completed": 2, "shutdown": 1}},
                "bytes": {"captured": captured, "delivered": 70, "undelivered": {"shutdown": 7}},
            }),
        };
        assert_eq!(report(77, 3).imbalance(), Vec::<String>::new());
        assert_eq!(report(78, 4).imbalance().len(), 2);
    }
}
