//! Starting and ending the forwarder of a spliced cable.

use std::time::Duration;

use rustix::process::Signal;

use super::{report::FaultReport, rule::Rule};
use crate::{
    LabError,
    tool::Tool,
    world::{Cable, InterfaceCounters, Lab, Process},
};

/// Opening two sockets takes milliseconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A spliced cable that works, as its rules say.
#[derive(Debug)]
pub struct FaultyCable {
    cable: Cable,
    process: Process,
    /// What the two ends had received when it began.
    before: [u64; 2],
}

impl FaultyCable {
    /// Closes the splice of `cable`, of which the lab was built with (`LabOptions::spliced`).
    pub fn start(
        lab: &Lab,
        tool: &Tool,
        cable: Cable,
        seed: u64,
        rules: &[Rule],
    ) -> Result<Self, LabError> {
        let name = format!("faults-{}", cable.port());
        let mut process = Process::start(
            &name,
            &mut tool.faults(lab, cable, seed, rules),
            lab.folder(),
        )?;
        process.wait_for_line("ready", LIMIT)?;
        Ok(Self {
            cable,
            process,
            before: received(lab, cable)?,
        })
    }

    /// Cuts the cable and tells what it did.
    ///
    /// Frames that the kernel dropped because the forwarder was too slow are an error: they would be faults that no
    /// rule asked for.
    pub fn stop(mut self, lab: &Lab) -> Result<FaultReport, LabError> {
        let arrived = received(lab, self.cable)?;
        self.process.signal(Signal::INT)?;
        self.process.wait_success(LIMIT)?;
        let output = self.process.stdout();
        let form = |expected: &str| LabError::Form {
            path: lab.file(&format!("faults-{}.out", self.cable.port())),
            got: output.clone(),
            expected: expected.to_owned(),
        };
        let report = serde_json::from_str(&output)
            .ok()
            .as_ref()
            .and_then(FaultReport::from_json)
            .ok_or_else(|| form("one JSON object"))?;
        let taken = [report.inward.received, report.outward.received];
        for side in 0..2 {
            let frames = arrived[side] - self.before[side];
            if taken[side] < frames {
                return Err(form(&format!("{frames} frames at side {side}")));
            }
        }
        Ok(report)
    }
}

/// Frames that the two ends have received.
fn received(lab: &Lab, cable: Cable) -> Result<[u64; 2], LabError> {
    let ends = cable.splice();
    let of = |end: &str| InterfaceCounters::of(&lab.switch(), end).map(|end| end.rx_packets);
    Ok([of(&ends[0])?, of(&ends[1])?])
}
