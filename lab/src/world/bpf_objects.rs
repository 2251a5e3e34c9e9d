//! Which BPF objects a process holds, and whether they still exist: what a killed program leaves behind.

use std::{
    collections::BTreeSet,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::command::run;
use crate::LabError;

/// Ids of links, programs and maps; ids are never used twice before the counter wraps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects(BTreeSet<(&'static str, u64)>);

/// Kind of object as bpftool calls it, and its line in proc_pid_fdinfo(5).
const KINDS: [(&str, &str); 3] = [
    ("link", "link_id:"),
    ("prog", "prog_id:"),
    ("map", "map_id:"),
];

impl BpfObjects {
    /// Those that process `pid` has open, and the maps inside its maps of maps.
    pub fn of_process(pid: u32) -> Result<Self, LabError> {
        let mut objects = Self::descriptors(pid)?;
        let maps: Vec<u64> = objects
            .0
            .iter()
            .filter(|(kind, _)| *kind == "map")
            .map(|(_, id)| *id)
            .collect();
        for outer in maps {
            objects.add_inner_maps(outer);
        }
        Ok(objects)
    }

    /// What it has attached, alone: large maps take long to look into.
    pub fn links_of_process(pid: u32) -> Result<Self, LabError> {
        let mut objects = Self::descriptors(pid)?;
        objects.0.retain(|(kind, _)| *kind == "link");
        Ok(objects)
    }

    fn descriptors(pid: u32) -> Result<Self, LabError> {
        let folder = format!("/proc/{pid}/fdinfo");
        let mut objects = Self::default();
        for entry in std::fs::read_dir(&folder)
            .map_err(LabError::file(&folder))?
            .flatten()
        {
            // A descriptor may be closed meanwhile.
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            objects.add_descriptor(&text);
        }
        Ok(objects)
    }

    /// A link's descriptor shows its program's id too.
    fn add_descriptor(&mut self, text: &str) {
        for (kind, label) in KINDS {
            let ids = text
                .lines()
                .filter_map(|line| line.strip_prefix(label)?.trim().parse().ok());
            self.0.extend(ids.map(|id| (kind, id)));
        }
    }

    fn add_inner_maps(&mut self, outer: u64) {
        let dump =
            run(Command::new("bpftool").args(["-j", "map", "dump", "id", &outer.to_string()]));
        let Ok(dump) = dump else { return };
        let Ok(Value::Array(elements)) = serde_json::from_slice(&dump.stdout) else {
            return;
        };
        let inner = elements
            .iter()
            .filter_map(|element| element["inner_map_id"].as_u64());
        self.0.extend(inner.map(|id| ("map", id)));
    }

    /// How many of `kind` ("link", "prog", "map").
    pub fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|(each, _)| *each == kind).count()
    }

    /// Those that exist now.
    pub fn remaining(&self) -> Result<Self, LabError> {
        let mut remaining = Self::default();
        for (kind, _) in KINDS {
            let output = run(Command::new("bpftool").args(["-j", kind, "show"]))?;
            let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let ids = listed
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|object| object["id"].as_u64());
            remaining.0.extend(
                ids.map(|id| (kind, id))
                    .filter(|object| self.0.contains(object)),
            );
        }
        Ok(remaining)
    }

    /// What is left when the kernel has had `limit` to free them: it does so after an RCU grace period.
    pub fn remaining_after(&self, limit: Duration) -> Result<Self, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            let remaining = self.remaining()?;
            if remaining.0.is_empty() || Instant::now() > deadline {
                return Ok(remaining);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_name_their_objects() {
        let mut objects = BpfObjects::default();
        objects
            .add_descriptor("pos:\t0\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\tab\nprog_id:\t31\n");
        objects.add_descriptor("map_type:\t27\nmap_id:\t12\nfrozen:\t0\n");
        objects.add_descriptor("pos:\t0\nflags:\t02\n");
        assert_eq!(
            (
                objects.count("link"),
                objects.count("prog"),
                objects.count("map")
            ),
            (1, 1, 1)
        );
        assert!(objects.0.contains(&("map", 12)));
    }
}
