//! The thread that reads.

use super::files;
use super::ports::RoundPorts;
use super::schedule::Schedule;
use crate::cli::Offline;
use crate::reassembly::{Reassembler, ReassemblyCounters, fragment};
use crate::selection::Selection;
use crate::transfers::TransferTable;
use crate::worker::{
    Counter, DECODE_ERROR_NAMES, DatagramRules, Intake, IntakeCounters, Place, Rejected,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use common::abi::DecapConfig;
use common::flow::{CaptureMeta, Captured, Nanos, flow_hash, owner};
use common::packet::{DecodeError, Endpoint, protocol};
use dataplane::bpf::Filter;
use dataplane::clock;
use dataplane::feed::FeedSender;
use savefile::{Damage, Packet, link};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause while a ring is full, or until the last ones are empty: rings hold many milliseconds.
const WAIT: Duration = Duration::from_micros(500);
/// Packets between two looks at whether to stop, and two publications of the figures.
const SHOW_EVERY: u64 = 256;
/// How long a stop waits for a read that does not return (a pipe on which nothing comes).
const STUCK: Duration = Duration::from_millis(500);

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub path: String,
    /// Packets read, in the first round.
    pub packets: u64,
    /// It was read to its end, or to where it is damaged.
    pub read: bool,
    /// Where it could not be read further.
    pub damage: Option<Damage>,
}

/// What became of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// Each file.
    pub files: Vec<FileReport>,
    /// Rounds that were read to the end.
    pub rounds: u32,
    /// Packets read, in all rounds.
    pub packets: u64,
    /// Those that went to a worker.
    pub requests: u64,
}

impl ReadReport {
    /// One line for each file that is damaged.
    pub fn damages(&self) -> impl Iterator<Item = String> + '_ {
        self.files.iter().filter_map(|file| {
            let damage = file.damage.as_ref()?;
            Some(format!("{}: {damage}", file.path))
        })
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    report: ReadReport,
    /// By cause, as a worker would count it.
    left_out: IntakeCounters,
    link_unknown: u64,
    fragments: ReassemblyCounters,
    ports_reused: u64,
    /// Rejected by `-F`.
    filtered: u64,
}

struct Shared {
    stop: AtomicBool,
    /// No kernel program chooses the sessions of files.
    selection: ArcSwap<Selection>,
    filter: ArcSwapOption<Filter>,
    /// Of the files, in all rounds.
    bytes: Arc<AtomicU64>,
    round: AtomicU32,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the files that were read, in all rounds.
    pub bytes: u64,
    /// All of them, if that is known.
    pub total: Option<u64>,
    /// Packets read.
    pub packets: u64,
    /// The current round, from 1 on.
    pub round: u32,
}

/// What makes a packet a request, as in the workers' rules.
pub struct Rules {
    /// The transfer list.
    pub transfers: Arc<TransferTable>,
    /// Its UDP part, if there is one.
    pub udp: Option<Arc<TransferTable>>,
    /// Which tunnels are opened.
    pub decap: DecapConfig,
    /// Family of the addresses that stand in for clients', if there are such.
    pub pool_is_v4: Option<bool>,
}

impl Rules {
    /// Where in a frame the packet of a client is that a transfer covers.
    fn place(&self, selection: &Selection, frame: &Captured<'_>) -> Result<Place, Rejected> {
        let rules = Intake {
            transfers: &self.transfers,
            decap: &self.decap,
            pool_is_v4: self.pool_is_v4,
            stop_at: None,
            selection: Some(selection),
        };
        let why = match (rules.take(frame), &self.udp) {
            (Ok(taken), _) => return Ok(taken.place()),
            (Err(Rejected::Undecodable(DecodeError::NotTcp)), Some(transfers)) => {
                let decap = &self.decap;
                let place = DatagramRules { transfers, decap }.take(frame)?.place;
                // As by the kernel's programs: a datagram begins nothing, and is not counted.
                match selection.refuses(place.client) {
                    None => return Ok(place),
                    Some(why) => Rejected::Unselected { why, opens: false },
                }
            }
            (Err(why), _) => why,
        };
        Err(why)
    }
}

/// Replays files to the workers, from [`Replayer::start`] on.
pub struct Replayer {
    shared: Arc<Shared>,
    total: Option<u64>,
    idle: Option<Box<Reading>>,
    thread: Option<JoinHandle<()>>,
}

impl Replayer {
    /// For workers that hold the other ends of `to`. `total` is the size of all files.
    pub fn new(
        offline: &Offline,
        total: Option<u64>,
        rules: Rules,
        selection: Selection,
        filter: Option<Filter>,
        to: Vec<FeedSender>,
    ) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::default(),
            selection: ArcSwap::from_pointee(selection),
            filter: ArcSwapOption::from_pointee(filter),
            bytes: Arc::default(),
            round: AtomicU32::default(),
            state: Mutex::default(),
        });
        let reading = Reading {
            shared: Arc::clone(&shared),
            offline: offline.clone(),
            rules,
            to,
            schedule: Schedule::new(offline.speed),
            ports: RoundPorts::default(),
            state: State::default(),
            reassembler: Reassembler::default(),
            ethernet: Vec::new(),
            moved: Vec::new(),
        };
        Self {
            shared,
            total: total.map(|n| n.saturating_mul(u64::from(offline.rounds))),
            idle: Some(Box::new(reading)),
            thread: None,
        }
    }

    /// Begins. The first packet is due now.
    pub fn start(&mut self) -> io::Result<()> {
        if let Some(mut reading) = self.idle.take() {
            let thread = std::thread::Builder::new().name("reader".to_owned());
            self.thread = Some(thread.spawn(move || reading.run())?);
        }
        Ok(())
    }

    /// All files are read and the workers have all of it.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Reads no further.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.idle = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let deadline = clock::now() + Nanos(STUCK.as_nanos() as u64);
        while !thread.is_finished() && clock::now() < deadline {
            std::thread::sleep(WAIT);
        }
        // One that waits for a pipe is left to the end of the process.
        if thread.is_finished() {
            let _ = thread.join();
        }
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        Position {
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            total: self.total,
            packets: self.shared.state().report.packets,
            round: self.shared.round.load(Ordering::Relaxed) + 1,
        }
    }

    /// Chooses sessions by `selection` from the next packet on.
    pub fn select(&self, selection: Selection) {
        self.shared.selection.store(Arc::new(selection));
    }

    /// From the next packet on, what `filter` rejects is left out.
    pub fn replace_filter(&self, filter: Filter) {
        self.shared.filter.store(Some(Arc::new(filter)));
    }

    /// What became of the files so far.
    pub fn report(&self) -> ReadReport {
        self.shared.state().report.clone()
    }

    /// Packets by what became of them here.
    pub fn counters(&self) -> Vec<Counter> {
        let state = self.shared.state().clone();
        let n = state.left_out;
        let decoded = DECODE_ERROR_NAMES
            .iter()
            .zip(n.undecodable)
            .map(|((_, name), value)| (*name, value));
        [
            ("packets", state.report.packets),
            ("requests", state.report.requests),
            ("other", n.no_transfer),
            ("to_target", n.to_target),
            ("other_family", n.other_family),
            ("denied", n.denied),
            ("other_shard", n.other_shard),
            ("filtered", state.filtered),
            ("link_unknown", state.link_unknown),
            ("ports_reused", state.ports_reused),
        ]
        .into_iter()
        .chain(state.fragments.named())
        .chain(decoded)
        .map(|(name, value)| Counter {
            group: "read",
            name,
            value,
        })
        .collect()
    }
}

/// What the thread owns.
struct Reading {
    shared: Arc<Shared>,
    offline: Offline,
    rules: Rules,
    to: Vec<FeedSender>,
    schedule: Option<Schedule>,
    ports: RoundPorts,
    state: State,
    /// Packets that come in fragments.
    reassembler: Reassembler,
    /// The frame, where an Ethernet header had to be made.
    ethernet: Vec<u8>,
    /// The frame, where the client has another port.
    moved: Vec<u8>,
}

impl Reading {
    fn run(&mut self) {
        for round in 0..self.offline.rounds {
            self.shared.round.store(round, Ordering::Relaxed);
            if let Some(schedule) = &mut self.schedule {
                schedule.begin_round();
            }
            if round > 0 {
                self.ports.begin_round();
            }
            for at in 0..self.offline.files.len() {
                self.file(at, round);
                self.show();
                if self.shared.stopped() {
                    return;
                }
            }
            // The next round has the same packets, with the same names.
            self.reassembler.end();
            self.state.report.rounds += 1;
            self.show();
        }
        while !self.shared.stopped() && !self.to.iter().all(FeedSender::is_drained) {
            std::thread::sleep(WAIT);
        }
    }

    fn show(&mut self) {
        self.state.ports_reused = self.ports.reused();
        self.state.fragments = self.reassembler.counters();
        *self.shared.state() = self.state.clone();
    }

    /// Reads one file; what is wrong with it is told once.
    fn file(&mut self, at: usize, round: u32) {
        let Some(path) = self.offline.files.get(at).cloned() else {
            return;
        };
        let before = self.state.report.packets;
        let (read, damage) = self.packets(&path, round);
        let packets = self.state.report.packets - before;
        if round > 0 {
            return;
        }
        if let Some(damage) = &damage {
            tracing::warn!(
                file = %path.display(),
                packets,
                "{damage}; what stands before is replayed"
            );
        } else if read {
            tracing::info!(file = %path.display(), packets, "file read to its end");
        }
        self.state.report.files.push(FileReport {
            path: path.display().to_string(),
            packets,
            read,
            damage,
        });
    }

    /// False: stopped before its end.
    fn packets(&mut self, path: &Path, round: u32) -> (bool, Option<Damage>) {
        let mut reader = match files::open(path, &self.shared.bytes) {
            Ok(reader) => reader,
            Err(e) => {
                let damage = Damage {
                    offset: 0,
                    unpacked: false,
                    found: e.to_string(),
                };
                return (true, Some(damage));
            }
        };
        loop {
            match reader.next() {
                Ok(Some(packet)) => self.packet(&packet, round),
                Ok(None) => return (true, None),
                Err(damage) => return (true, Some(damage)),
            }
            if self.state.report.packets.is_multiple_of(SHOW_EVERY) {
                self.show();
                if self.shared.stopped() {
                    return (false, None);
                }
            }
        }
    }

    fn packet(&mut self, packet: &Packet<'_>, round: u32) {
        self.state.report.packets += 1;
        let Some(kind) = packet.link else {
            self.state.link_unknown += 1;
            return;
        };
        let Some(frame) = link::frame(kind, packet.bytes, packet.len, &mut self.ethernet) else {
            self.state.left_out.undecodable(DecodeError::NotIp);
            return;
        };
        let mut captured = Captured {
            bytes: frame.bytes,
            meta: CaptureMeta {
                // The file's time, by which fragments are given up.
                at: Nanos(packet.at_ns),
                frame_len: frame.len,
                ..CaptureMeta::default()
            },
        };
        let selection = self.shared.selection.load();
        let mut taken = self.rules.place(&selection, &captured);
        if taken == Err(Rejected::Undecodable(DecodeError::Fragment)) {
            taken = match fragment(captured.bytes) {
                Ok((ip, _)) if ip.protocol != protocol::TCP => {
                    Err(Rejected::Undecodable(DecodeError::NotTcp))
                }
                Ok((ip, _)) => {
                    let Some(whole) = self.reassembler.take(&captured, &ip) else {
                        return;
                    };
                    captured = whole;
                    self.rules.place(&selection, &captured)
                }
                Err(error) => Err(Rejected::Undecodable(error)),
            };
        }
        captured.meta.at = Nanos(0);
        let Place {
            mut client,
            position,
            ports_at: at,
        } = match taken {
            Ok(place) => place,
            Err(why) => {
                self.state.left_out.leave_out(why);
                return;
            }
        };
        let filter = self.shared.filter.load();
        if filter
            .as_ref()
            .is_some_and(|f| !f.matches_at(captured.bytes, position))
        {
            self.state.filtered += 1;
            return;
        }
        if round > 0 {
            client = Endpoint::new(client.addr, self.ports.port(client));
            self.moved.clear();
            self.moved.extend_from_slice(captured.bytes);
            if let Some(port) = self.moved.get_mut(at..at + 2) {
                port.copy_from_slice(&client.port.to_be_bytes());
            }
            captured.bytes = &self.moved;
        } else if self.offline.rounds > 1 {
            self.ports.note(client);
        }
        if let Some(schedule) = &mut self.schedule {
            captured.meta.at = schedule.due(packet.at_ns, clock::now);
        }
        let worker = owner(flow_hash(client), self.to.len() as u32);
        let Some(to) = self.to.get_mut(worker as usize) else {
            return;
        };
        while !to.send(&captured) {
            if self.shared.stopped() {
                return;
            }
            std::thread::sleep(WAIT);
        }
        self.state.report.requests += 1;
    }
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod fragment_tests;
