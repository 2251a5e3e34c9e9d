//! Starts the workers, waits for the end, and brings everything down in order.

use super::RunError;
use super::assemble::Assembled;
use super::capture::Attached;
use crate::cli::Config;
use crate::report::{Report, Setting};
use crate::worker::{Control, LiveFigures, LiveStats, Worker, WorkerParts, WorkerReport};
use common::flow::Nanos;
use dataplane::wake::WakerHandle;
use dataplane::{clock, cores};
use operator::signals::Signals;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the supervisor looks at the workers.
const TICK: Duration = Duration::from_millis(50);

/// Runs the workers to the end.
pub fn supervise(
    config: &Config,
    assembled: Assembled,
    mut signals: Signals,
) -> Result<Report, RunError> {
    let Assembled {
        parts,
        cores,
        wakers,
        control,
        live,
        attached,
    } = assembled;
    let started = clock::now();
    let workers = parts.len();
    let mut threads = Vec::with_capacity(workers);
    for (id, parts) in parts.into_iter().enumerate() {
        match spawn(id, parts, cores.get(id).copied()) {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                control.stop(started, started);
                wake(&wakers);
                for thread in threads {
                    drop(thread.join());
                }
                return Err(RunError::System {
                    what: format!("start worker {id}"),
                    source,
                });
            }
        }
    }
    tracing::info!(
        iface = config.iface,
        capture = config.capture.name(),
        workers,
        transfers = %list(&config.transfers),
        intercepts = %list(&config.intercepts),
        "ready"
    );

    let mut run = Run {
        control,
        wakers,
        live,
        attached,
        drain: nanos(config.drain),
    };
    let end = config.duration.map(|d| started + nanos(d));
    let interval = nanos(config.stats_interval);
    let mut stats_at = started + interval;
    let mut died = None;
    loop {
        let requests = signals.wait(TICK);
        let now = clock::now();
        for _ in 0..requests {
            run.end_requested(now);
        }
        if end.is_some_and(|at| now >= at) && run.control.stop_at().is_none() {
            tracing::info!(
                "end of --duration, {} left for open sessions",
                seconds(run.drain)
            );
            run.stop(now);
        }
        if now >= stats_at {
            stats_at = now + interval;
            run.log_stats();
        }
        let ended = threads.iter().filter(|t| t.is_finished()).count();
        if ended == threads.len() {
            break;
        }
        if ended > 0 && run.control.stop_at().is_none() {
            died = threads.iter().position(JoinHandle::is_finished);
            run.drain = Nanos(0);
            run.stop(now);
        }
    }

    let mut reports = Vec::with_capacity(workers);
    for (id, thread) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok(report) => reports.push(report),
            Err(_) => died = Some(id),
        }
    }
    // The workers are gone, and with them every socket and mapped ring.
    run.attached.detach();
    if let Some(worker) = died {
        return Err(RunError::WorkerDied { worker });
    }
    let duration = run
        .control
        .stop_at()
        .unwrap_or_else(clock::now)
        .since(started);
    let setting = Setting {
        capture: config.capture.name(),
        iface: config.iface.clone(),
        workers,
        duration,
        clock_resolution: clock::resolution(),
    };
    let mut report = Report::new(setting, &reports, &run.attached.counters());
    report.streams = run.attached.streams();
    Ok(report)
}

struct Run {
    control: Arc<Control>,
    wakers: Vec<WakerHandle>,
    live: Vec<Arc<LiveStats>>,
    attached: Attached,
    drain: Nanos,
}

impl Run {
    /// First request: drain. Second: at once.
    fn end_requested(&mut self, now: Nanos) {
        if self.control.stop_at().is_none() {
            tracing::info!(
                "stopping: capture ends, open sessions have {} (a second signal ends them at once)",
                seconds(self.drain)
            );
        } else {
            tracing::info!("stopping at once");
            self.drain = Nanos(0);
        }
        self.stop(now);
    }

    fn stop(&mut self, now: Nanos) {
        let now = if self.control.stop_at().is_none() {
            // First no more packets, then the time from which on they do not count: with a tap
            // every packet that was captured is replayed.
            self.attached.stop();
            clock::now()
        } else {
            now
        };
        self.control.stop(now, now + self.drain);
        wake(&self.wakers);
    }

    fn log_stats(&self) {
        let f = self
            .live
            .iter()
            .map(|l| l.read())
            .fold(LiveFigures::default(), LiveFigures::plus);
        let counters = self.attached.counters();
        let lost: u64 = counters
            .iter()
            .filter(|c| c.name == "ring_full")
            .map(|c| c.value)
            .sum();
        tracing::info!(
            open = f.open,
            sessions = f.sessions,
            completed = f.completed,
            captured = f.frames,
            ring_full = lost,
            sent = f.sent,
            responses = f.responses,
            bytes_captured = f.bytes_captured,
            bytes_delivered = f.bytes_delivered,
            "statistics"
        );
    }
}

fn spawn(
    id: usize,
    parts: WorkerParts,
    core: Option<usize>,
) -> std::io::Result<JoinHandle<WorkerReport>> {
    std::thread::Builder::new()
        .name(format!("worker-{id}"))
        .spawn(move || {
            if let Some(core) = core
                && let Err(e) = cores::pin(core)
            {
                tracing::warn!("worker {id} runs unpinned: {e}");
            }
            // Made here, so that its memory is local to the core it runs on.
            Worker::new(parts).run(clock::now)
        })
}

fn wake(wakers: &[WakerHandle]) {
    wakers.iter().for_each(WakerHandle::wake);
}

fn nanos(d: Duration) -> Nanos {
    Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn seconds(n: Nanos) -> String {
    format!("{} s", n.0 as f64 / 1e9)
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
