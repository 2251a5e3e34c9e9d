//! Starts the workers, waits for the end, and brings everything down in order.

use super::RunError;
use super::assemble::Assembled;
use super::capture::Attached;
use super::ending::{Ending, ReadingShown};
use super::pool::Pools;
use crate::cli::{Config, Deny};
use crate::doctor::Vigil;
use crate::record::{Recorder, WriteReport};
use crate::report::{Report, Setting};
use crate::worker::{Control, LiveFigures, LiveStats, Worker, WorkerParts, WorkerReport};
use arc_swap::ArcSwap;
use common::flow::Nanos;
use dataplane::bpf::{BpfError, Filter};
use dataplane::wake::WakerHandle;
use dataplane::{clock, cores};
use operator::signals::Signals;
use std::path::Path;
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
        pools,
        filter,
        recorder,
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
        iface = config.source_name(),
        capture = config.capture_name(),
        workers,
        transfers = %list(&config.transfers),
        shard = %config.shard,
        percent = %config.share,
        denied = config.deny.as_ref().map_or(0, |d| d.blocks().len()),
        filter = config.filter.as_ref().map(Filter::expression),
        udp = %list(&config.udp_transfers),
        intercepts = %list(&config.intercepts),
        pool = config.pool.as_ref().map(tracing::field::display),
        "ready"
    );

    let mut run = Run {
        control,
        wakers,
        live,
        attached,
        pools,
        filter,
        recorder,
        drain: nanos(config.drain),
        ending: Ending::new(nanos(config.drain), nanos(config.turn_limit)),
        filter_judges_inner: config.filter.as_ref().is_some_and(Filter::judges_inner),
    };
    if let Err(error) = run.begin() {
        run.drain = Nanos(0);
        run.stop(clock::now());
        for thread in threads {
            drop(thread.join());
        }
        return Err(error);
    }
    let shown = ReadingShown::new(run.attached.replayer());
    let end = config.duration.map(|d| started + nanos(d));
    let interval = nanos(config.stats_interval);
    let mut stats_at = started + interval;
    let mut died = None;
    let mut vigil = Vigil::new(interval, started);
    loop {
        let requests = signals.wait(TICK);
        let now = clock::now();
        for _ in 0..requests {
            run.end_requested(now);
        }
        if signals.take_reload() {
            if let Some(deny) = config.deny.as_ref().filter(|deny| deny.reloads()) {
                run.reload_denied(deny);
            }
            if let Some(path) = &config.filter_file {
                run.reload_filter(path);
            }
        }
        if end.is_some_and(|at| now >= at) && run.control.stop_at().is_none() {
            tracing::info!(
                "end of --duration, {} left for open sessions",
                seconds(run.drain)
            );
            run.stop(now);
        }
        if let Some(replayer) = run.attached.replayer() {
            shown.show(replayer);
            let done = replayer.is_done();
            run.end_of_files(done, now);
        }
        if config.doctor && run.control.stop_at().is_none() {
            vigil.tick(now, run.figures(), config, || run.attached.counters());
        }
        if now >= stats_at {
            stats_at = now + interval;
            run.log_stats();
            if let Some(pools) = &mut run.pools {
                pools.warn_of_conflicts();
            }
            if let Some(replayer) = run.attached.replayer() {
                shown.log(replayer, now.since(started));
            }
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
    drop(shown);
    // The workers are gone, and with them every socket and mapped ring.
    run.attached.detach();
    if let Some(pools) = &mut run.pools {
        pools.warn_of_conflicts();
        pools.detach();
    }
    let written = run.finish_recording();
    if let Some(worker) = died {
        return Err(RunError::WorkerDied { worker });
    }
    let duration = run
        .control
        .stop_at()
        .unwrap_or_else(clock::now)
        .since(started);
    let setting = Setting {
        capture: config.capture_name(),
        iface: config.source_name(),
        workers,
        duration,
        clock_resolution: clock::resolution(),
    };
    let mut counters = run.attached.counters();
    counters.extend(run.pools.iter().flat_map(Pools::counters));
    counters.extend(written.iter().flat_map(WriteReport::counters));
    let mut report = Report::new(setting, &reports, &counters);
    report.read = run.attached.replayer().map(|r| r.report());
    report.written = written;
    report.doctor = vigil.finish();
    report.streams = run.attached.streams();
    Ok(report)
}

struct Run {
    control: Arc<Control>,
    wakers: Vec<WakerHandle>,
    live: Vec<Arc<LiveStats>>,
    attached: Attached,
    pools: Option<Pools>,
    /// See [`Assembled::filter`].
    filter: Option<Arc<ArcSwap<Filter>>>,
    recorder: Option<Recorder>,
    drain: Nanos,
    ending: Ending,
    /// See [`Filter::judges_inner`].
    filter_judges_inner: bool,
}

impl Run {
    /// Now that the workers run: the reader of files, and the writer.
    fn begin(&mut self) -> Result<(), RunError> {
        if let Some(recorder) = &mut self.recorder {
            recorder
                .start()
                .map_err(RunError::system("start the thread that records"))?;
        }
        if let Some(replayer) = self.attached.replayer() {
            replayer
                .start()
                .map_err(RunError::system("start the thread that reads"))?;
        }
        Ok(())
    }

    /// The files are at their end: the capture is, and sessions go on while something moves.
    fn end_of_files(&mut self, done: bool, now: Nanos) {
        if done && self.control.stop_at().is_none() {
            tracing::info!("all files are read, open sessions go on while something moves");
            self.control.stop(now, Nanos(u64::MAX));
            wake(&self.wakers);
            self.ending.begin(now);
        }
        if self.ending.is_over(self.figures(), now) {
            self.control.stop(now, now);
            wake(&self.wakers);
        }
    }

    fn finish_recording(&mut self) -> Option<WriteReport> {
        let lost = self.lost_in_capture();
        let recorder = self.recorder.as_mut()?;
        recorder.set_lost_in_capture(lost);
        recorder.finish()
    }

    fn lost_in_capture(&self) -> u64 {
        let counters = self.attached.counters();
        let full = counters.iter().filter(|c| c.name == "ring_full");
        full.map(|c| c.value).sum()
    }

    fn figures(&self) -> LiveFigures {
        self.live
            .iter()
            .map(|l| l.read())
            .fold(LiveFigures::default(), LiveFigures::plus)
    }

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

    /// A file that is wrong changes nothing.
    fn reload_denied(&mut self, deny: &Deny) {
        let replaced = deny.read().and_then(|blocks| {
            self.attached
                .replace_denied(&blocks)
                .map(|()| blocks.len())
                .map_err(|e| e.to_string())
        });
        match replaced {
            Ok(blocks) => tracing::info!(blocks, "denied clients read again"),
            Err(error) => {
                tracing::error!("denied clients stay as they were: --deny-file: {error}");
            }
        }
    }

    /// A bad new filter leaves the old one in force.
    fn reload_filter(&self, path: &Path) {
        let replaced = Filter::from_file(path)
            .map_err(BpfError::from)
            .map(|filter| {
                if self.filter_judges_inner {
                    filter.of_inner_packets()
                } else {
                    filter
                }
            })
            .and_then(|filter| self.attached.replace_filter(&filter).map(|()| filter));
        match replaced {
            Ok(filter) => {
                let filter = Arc::new(filter);
                if let Some(shared) = &self.filter {
                    shared.store(Arc::clone(&filter));
                }
                tracing::info!(filter = filter.expression(), "filter replaced");
            }
            Err(error) => {
                tracing::error!("filter not replaced, the old one stays in force: {error}");
            }
        }
    }

    fn log_stats(&self) {
        let f = self.figures();
        let lost = self.lost_in_capture();
        if let Some(recorder) = &self.recorder {
            recorder.set_lost_in_capture(lost);
        }
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
