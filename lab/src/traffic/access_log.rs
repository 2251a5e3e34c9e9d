//! One line per request that a server received, and the comparison of two servers' lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::LabError;

/// One request as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its unique id.
    pub id: String,
    /// Everything else that must be equal on both servers: method, lengths, checksums.
    pub content: String,
    /// The server found the body it expected for this id (always true where the server can't check).
    pub intact: bool,
}

/// What one server saw.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    entries: Vec<Entry>,
}

impl AccessLog {
    /// Reads the log of the lab's own server: `<id> <content…> ok|bad`.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        let entries = text
            .lines()
            .map(|line| parse(line).ok_or_else(|| form(path, line)))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// Takes entries from elsewhere, for example from nginx's log.
    pub fn from_entries(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Number of requests, repeated ones counted each time.
    pub fn requests(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What the target (`self` is production) got of it.
    pub fn compare(&self, target: &Self) -> Comparison {
        let ours = by_id(&self.entries);
        let theirs = by_id(&target.entries);
        let (seen, lost): (Vec<_>, Vec<_>) =
            ours.iter().partition(|(id, _)| theirs.contains_key(*id));
        let corrupt = seen.iter().filter(|(id, entries)| {
            let copies = &theirs[*id];
            // Production may itself have got the same id more than once (a client that retried): the target must
            // show the same contents, in any number.
            copies
                .iter()
                .any(|copy| entries.iter().all(|entry| entry.content != copy.content))
                || copies.iter().any(|copy| !copy.intact)
                    && entries.iter().all(|entry| entry.intact)
        });
        Comparison {
            production_requests: self.requests(),
            target_requests: target.requests(),
            production_ids: ours.len() as u64,
            replayed_ids: seen.len() as u64,
            duplicates: theirs
                .iter()
                .map(|(id, copies)| {
                    copies
                        .len()
                        .saturating_sub(ours.get(id).map_or(1, Vec::len)) as u64
                })
                .sum(),
            missing_copies: seen
                .iter()
                .map(|(id, entries)| entries.len().saturating_sub(theirs[*id].len()) as u64)
                .sum(),
            unexpected: theirs.keys().filter(|id| !ours.contains_key(*id)).count() as u64,
            corrupt: Ids(corrupt.map(|(id, _)| (**id).to_owned()).collect()),
            lost: Ids(lost.iter().map(|(id, _)| (**id).to_owned()).collect()),
        }
    }
}

/// Ids that something is wrong with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(pub BTreeSet<String>);

impl Ids {
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The first few, for a message.
    pub fn sample(&self) -> String {
        self.0
            .iter()
            .take(5)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What the target got of what production got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Requests that production received.
    pub production_requests: u64,
    /// Requests that the target received.
    pub target_requests: u64,
    /// Distinct ids among production's.
    pub production_ids: u64,
    /// How many of these the target saw.
    pub replayed_ids: u64,
    /// Requests that the target received more often than production.
    pub duplicates: u64,
    /// Repeated requests (one id, several times, as `ab` sends them) of which the target received fewer.
    pub missing_copies: u64,
    /// Ids that the target saw and production did not.
    pub unexpected: u64,
    /// Ids whose request differs between the two.
    pub corrupt: Ids,
    /// Ids that the target did not see.
    pub lost: Ids,
}

impl Comparison {
    /// Distinct ids seen by the target, by production; 0 if production saw none.
    pub fn replay_ratio(&self) -> f64 {
        if self.production_ids == 0 {
            0.0
        } else {
            self.replayed_ids as f64 / self.production_ids as f64
        }
    }

    /// What is wrong with it, one sentence each; nothing if every request arrived once and unchanged.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.production_ids == 0 {
            faults.push("production received no request".to_owned());
        }
        if self.lost.count() > 0 {
            faults.push(format!(
                "{} of {} requests did not reach the target: {}",
                self.lost.count(),
                self.production_ids,
                self.lost.sample()
            ));
        }
        if self.missing_copies > 0 {
            faults.push(format!(
                "{} repetitions of a request did not reach the target",
                self.missing_copies
            ));
        }
        if self.corrupt.count() > 0 {
            faults.push(format!(
                "{} requests arrived changed: {}",
                self.corrupt.count(),
                self.corrupt.sample()
            ));
        }
        if self.duplicates > 0 {
            faults.push(format!(
                "{} requests arrived more than once",
                self.duplicates
            ));
        }
        if self.unexpected > 0 {
            faults.push(format!(
                "{} requests arrived that production never got",
                self.unexpected
            ));
        }
        faults
    }
}

fn by_id(entries: &[Entry]) -> BTreeMap<&str, Vec<&Entry>> {
    let mut map: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        map.entry(&entry.id).or_default().push(entry);
    }
    map
}

fn parse(line: &str) -> Option<Entry> {
    let (rest, verdict) = line.rsplit_once(' ')?;
    let (id, content) = rest.split_once(' ')?;
    let intact = match verdict {
        "ok" => true,
        "bad" => false,
        _ => return None,
    };
    Some(Entry {
        id: id.to_owned(),
        content: content.to_owned(),
        intact,
    })
}

fn form(path: &Path, line: &str) -> LabError {
    LabError::Form {
        path: path.to_owned(),
        got: format!("line {line:?}"),
        expected: "<id> <method> <length> <checksum> ok|bad".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> AccessLog {
        AccessLog::from_entries(lines.iter().map(|line| parse(line).unwrap()).collect())
    }

    #[test]
    fn equal_logs_have_no_fault_in_any_order() {
        let production = log(&["1 GET 0 a ok", "2 POST 5 b ok"]);
        let result = production.compare(&log(&["2 POST 5 b ok", "1 GET 0 a ok"]));
        assert_eq!(result.faults(), Vec::<String>::new());
        assert!((result.replay_ratio() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn lost_changed_repeated_and_foreign_requests_are_told_apart() {
        let production = log(&[
            "1 GET 0 a ok",
            "2 POST 5 b ok",
            "3 GET 0 c ok",
            "4 POST 9 d ok",
        ]);
        let target = log(&[
            "2 POST 5 x ok",
            "3 GET 0 c ok",
            "3 GET 0 c ok",
            "4 POST 9 d bad",
            "9 GET 0 z ok",
        ]);
        let result = production.compare(&target);
        assert_eq!(result.lost.sample(), "1");
        assert_eq!(result.corrupt.sample(), "2, 4");
        assert_eq!(
            (result.duplicates, result.unexpected, result.replayed_ids),
            (1, 1, 3)
        );
        assert_eq!(result.faults().len(), 4);
    }

    #[test]
    fn a_request_that_production_got_twice_is_no_duplicate() {
        let twice = log(&["1 GET 0 a ok", "1 GET 0 a ok"]);
        assert_eq!(twice.compare(&twice).faults(), Vec::<String>::new());
    }

    #[test]
    fn a_repetition_that_the_target_missed_is_a_fault() {
        let twice = log(&["1 GET 0 a ok", "1 GET 0 a ok"]);
        let result = twice.compare(&log(&["1 GET 0 a ok"]));
        assert_eq!(
            (
                result.missing_copies,
                result.lost.count(),
                result.faults().len()
            ),
            (1, 0, 1)
        );
    }

    #[test]
    fn nothing_replayed_from_nothing_is_a_fault() {
        let empty = AccessLog::default();
        assert_eq!(empty.compare(&empty).faults().len(), 1);
    }

    #[test]
    fn half_written_lines_are_refused() {
        assert_eq!(parse("1 GET 0 a"), None);
        assert_eq!(parse(""), None);
    }
}
