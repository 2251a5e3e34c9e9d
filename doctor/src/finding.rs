//! What `doctor` finds, as both programs say it: a stable name, one sentence, an exit code.

use operator::exit::Failure;
use serde::Serialize;

/// One cause for which nothing, or not all, arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the cause: `snake_case` and stable, for programs.
    pub cause: &'static str,
    /// What was got and what was expected.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// Puts the parts together.
    pub fn new(cause: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            cause,
            what: what.into(),
            fix: fix.into(),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// Everything that a run of `doctor` came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Causes, the hop that comes first in the packets' way first.
    pub findings: Vec<Finding>,
    /// What was looked at, with what was seen: one line each.
    pub checked: Vec<String>,
}

impl Diagnosis {
    /// Notes what was looked at.
    pub fn note(&mut self, line: impl Into<String>) {
        self.checked.push(line.into());
    }

    /// Appends findings.
    pub fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// For people: what was looked at, then the causes.
    pub fn to_text(&self) -> String {
        let mut lines: Vec<String> = self
            .checked
            .iter()
            .map(|l| format!("looked at {l}"))
            .collect();
        for finding in &self.findings {
            lines.push(format!("FOUND {}: {finding}", finding.cause));
        }
        if self.findings.is_empty() {
            lines.push("nothing found: every hop that was looked at works".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// For programs.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Success if nothing was found.
    pub fn outcome(&self) -> Result<(), Failure> {
        if self.findings.is_empty() {
            return Ok(());
        }
        let causes: Vec<_> = self.findings.iter().map(|f| f.cause).collect();
        Err(Failure::Found(format!(
            "doctor found {}",
            causes.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_sentence_and_a_failure() {
        let mut diagnosis = Diagnosis::default();
        diagnosis.note("interface eth0: up");
        assert!(diagnosis.outcome().is_ok() && diagnosis.to_text().contains("nothing found"));
        diagnosis.add([Finding::new("no_route", "no route to 192.0.2.1", "add one")]);
        let text = diagnosis.to_text();
        assert!(
            text.contains("FOUND no_route: no route to 192.0.2.1; add one\n"),
            "{text}"
        );
        assert!(
            matches!(diagnosis.outcome(), Err(Failure::Found(text)) if text.contains("no_route"))
        );
        let json = diagnosis.to_json().expect("json");
        assert!(json.contains(r#""cause": "no_route""#), "{json}");
    }
}
