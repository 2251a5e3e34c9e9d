//! A lab with faulty cables and both programs running, for tests that bring their own servers and clients.
//!
//! ```text
//!  production ── tap, or mirror ═ FAULTS ═▶ tcpcopy ──▶ ═ FAULTS ═ target
//!                                              ▲            │ the same cable, the other way
//!                                              └─ intercept ◀┘
//! ```

use std::{path::PathBuf, time::Duration};

use super::{Capture, Copy, ExitReport, Intercept, Programs, stop};
use crate::{
    LabError,
    faults::{FaultReport, FaultyCable, Rule},
    world::{Cable, Host, Lab, LabOptions, Process},
};

/// Sessions that repair what the cables did need round trips and timeouts; what is open after this is a fault.
const DRAIN: Duration = Duration::from_secs(30);
/// When set, the target's cable is recorded on its host's side: `target.pcap` beside the logs.
const TRACE: &str = "REPLAY_TRACE";

/// How to set the stage.
#[derive(Clone, Debug)]
pub struct StageOptions {
    /// The lab; the cables are spliced as the rules need.
    pub lab: LabOptions,
    /// How tcpcopy is called.
    pub copy: Copy,
    /// How intercept is called.
    pub intercept: Intercept,
    /// How long sessions may go on at the end.
    pub drain: Duration,
    /// For all faults that are drawn.
    pub seed: u64,
    /// Faults of the target's cable: requests go in, answers out.
    pub target: Vec<Rule>,
    /// Faults between the switch's mirror port and `mir0`, all inward.
    pub mirror: Vec<Rule>,
}

impl StageOptions {
    /// No faults; the demo's calls with a longer drain.
    pub fn new(capture: Capture) -> Self {
        Self {
            lab: LabOptions::default(),
            copy: Copy::new(capture),
            intercept: Intercept::default(),
            drain: DRAIN,
            seed: 1,
            target: Vec::new(),
            mirror: Vec::new(),
        }
    }
}

/// Everything but servers and clients.
#[derive(Debug)]
pub struct Stage {
    /// tcpcopy, running.
    pub tcpcopy: Process,
    /// intercept, running.
    pub intercept: Process,
    options: StageOptions,
    programs: Programs,
    report: PathBuf,
    target: FaultyCable,
    mirror: Option<FaultyCable>,
    trace: Option<Process>,
    /// The network; last, so that it goes last.
    pub lab: Lab,
}

/// What a replay on a stage ended with.
#[derive(Clone, Debug)]
pub struct Played {
    /// What tcpcopy says.
    pub report: ExitReport,
    /// What the target's cable did.
    pub target: FaultReport,
    /// What the mirror port's cable did.
    pub mirror: Option<FaultReport>,
}

impl Stage {
    /// Builds it.
    pub fn set(programs: &Programs, mut options: StageOptions) -> Result<Self, LabError> {
        let drain = format!("{}s", options.drain.as_secs());
        options.copy.more.extend(["--drain".to_owned(), drain]);
        let target = Cable::Of(Host::Target);
        let mirrored = (options.copy.capture == Capture::Mirror).then_some(Cable::Mirror);
        let lab = Lab::up(&LabOptions {
            spliced: mirrored.into_iter().chain([target]).collect(),
            ..options.lab.clone()
        })?;
        let cable = |cable, rules: &[Rule]| {
            FaultyCable::start(&lab, &programs.tool, cable, options.seed, rules)
        };
        let trace = std::env::var_os(TRACE).map(|_| record(&lab)).transpose()?;
        let report = lab.file("report.json");
        Ok(Self {
            target: cable(target, &options.target)?,
            mirror: mirrored
                .map(|port| cable(port, &options.mirror))
                .transpose()?,
            trace,
            intercept: options.intercept.start(&lab, programs)?,
            tcpcopy: options.copy.start(&lab, programs, &report)?,
            report,
            options,
            programs: programs.clone(),
            lab,
        })
    }

    /// Starts intercept again, after its end.
    pub fn restart_intercept(&mut self) -> Result<(), LabError> {
        self.intercept = self.options.intercept.start(&self.lab, &self.programs)?;
        Ok(())
    }

    /// Ends the replay: tcpcopy drains and reports, and so do the others. The lab stays. An error if a host
    /// received a wrong checksum: cables lose and reorder, but never damage.
    pub fn finish(mut self) -> Result<(Lab, Played), LabError> {
        stop(&mut self.tcpcopy)?;
        stop(&mut self.intercept)?;
        drop(self.trace);
        let checksums = self.lab.checksum_faults()?;
        if !checksums.is_empty() {
            return Err(LabError::Checksums(checksums));
        }
        let played = Played {
            report: ExitReport::read(&self.report)?,
            target: self.target.stop(&self.lab)?,
            mirror: self.mirror.map(|cable| cable.stop(&self.lab)).transpose()?,
        };
        eprintln!(
            "seed {}: {:?} {}\n{:?}",
            self.options.seed,
            played.report.outcomes(),
            played.report.json["bytes"],
            played.target
        );
        Ok((self.lab, played))
    }
}

/// tcpdump on the host's side of the target's cable.
fn record(lab: &Lab) -> Result<Process, LabError> {
    let mut command = lab.command(Host::Target, "tcpdump");
    command
        .args(["-i", "eth0", "-U", "-s", "128", "-w"])
        .arg(lab.file("target.pcap"));
    let mut process = Process::start("trace", &mut command, lab.folder())?;
    process.wait_for_line("listening on", Duration::from_secs(20))?;
    Ok(process)
}
