//! IP fragments of a live capture: gathered on one worker, put together, and judged there, since the kernel could
//! not: it knows no ports of a fragment.
//!
//! ```text
//!  fragment ─ fragment hash: mine? ─▶ Reassembler ─ whole ─▶ ready ─ behind the batch ─▶ transfer, shard, share, -F
//!                 │ other's                                                                │
//!                 └─▶ hand-over ring, the fragment as it is       mine ─▶ engine, datagrams ◀┤
//!                                                                 other's ─▶ hand-over ring ◀┘
//! ```
//! The tap's rings bring a fragment to its worker at once; a mirror's queue may be another's. With files the
//! reader does all this (`offline/reader.rs`).

use super::intake::{Intake, IntakeCounters, Rejected};
use super::{Counter, Worker};
use crate::reassembly::{Reassembler, fragment};
use arc_swap::ArcSwap;
use common::flow::{CaptureMeta, Captured, Nanos, Shard, Share, flow_hash, fragment_hash, owner};
use common::packet::{DecodeError, Endpoint, ethertype};
use dataplane::bpf::Filter;
use dataplane::handover::Handover;
use std::sync::Arc;

/// Buffers that are kept for whole packets, of at most 64 KiB each. It takes more only if that many packets become
/// whole in one batch.
const SPARE: usize = 8;
/// Offset of the ethertype, where a tag lies on the wire.
const TAG_AT: usize = 12;

/// What the kernel programs choose by, for packets that they see in fragments. The list of denied clients is not
/// among it: addresses are all it takes.
#[derive(Clone, Debug)]
pub struct FragmentRules {
    /// Sessions and flows of this shard only.
    pub shard: Shard,
    /// A share of the sessions; that of flows is the UDP replay's.
    pub share: Share,
    /// `-F`, which may be replaced.
    pub filter: Option<Arc<ArcSwap<Filter>>>,
}

impl Default for FragmentRules {
    /// Everything.
    fn default() -> Self {
        Self {
            shard: Shard::WHOLE,
            share: Share::ALL,
            filter: None,
        }
    }
}

/// Whole packets that are not replayed, by cause.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    no_transfer: u64,
    not_selected: u64,
    filtered: u64,
}

/// The fragments of one worker.
pub(super) struct Fragments {
    rules: FragmentRules,
    reassembler: Reassembler,
    /// Whole packets of the batch under way. None but that of the last batch, so never many.
    ready: Vec<(CaptureMeta, Vec<u8>)>,
    /// Their buffers, for the next ones.
    spare: Vec<Vec<u8>>,
    /// A frame with its tag.
    tagged: Vec<u8>,
    left_out: LeftOut,
}

impl Fragments {
    pub(super) fn new(rules: FragmentRules) -> Self {
        Self {
            rules,
            reassembler: Reassembler::default(),
            ready: Vec::new(),
            spare: Vec::new(),
            tagged: Vec::new(),
            left_out: LeftOut::default(),
        }
    }

    /// Takes a frame that is a fragment, or hands it to the worker that gathers its packet (`others`: it comes
    /// from this worker's own source). `id` is this worker's number, of `workers`.
    #[cold]
    pub(super) fn gather(
        &mut self,
        (id, workers): (u32, u32),
        frame: &Captured<'_>,
        others: Option<&mut Handover>,
        intake: &mut IntakeCounters,
    ) {
        let (ip, fragment) = match fragment(frame.bytes) {
            Ok(headers) => headers,
            Err(error) => return intake.undecodable(error),
        };
        let gatherer = owner(fragment_hash(ip.src, ip.dst, fragment.id), workers);
        match others {
            Some(others) if gatherer != id => {
                if !others.send(gatherer as usize, frame) {
                    intake.handover_full += 1;
                }
            }
            _ => {
                if let Some(whole) = self.reassembler.take(frame, &ip) {
                    let mut bytes = self.spare.pop().unwrap_or_default();
                    bytes.clear();
                    bytes.extend_from_slice(whole.bytes);
                    self.ready.push((whole.meta, bytes));
                }
            }
        }
    }

    /// There are whole packets to be replayed.
    #[inline]
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives up what was not whole in time.
    pub(super) fn expire(&mut self, now: Nanos) {
        self.reassembler.expire(now);
    }

    /// Gives up what is not whole: nothing more will come.
    pub(super) fn end(&mut self) {
        self.reassembler.end();
    }

    /// What became of them, for the report.
    pub(super) fn counters(&self) -> impl Iterator<Item = Counter> + use<> {
        let LeftOut {
            no_transfer,
            not_selected,
            filtered,
        } = self.left_out;
        let left_out = [
            ("no_transfer", no_transfer),
            ("not_selected", not_selected),
            ("filtered", filtered),
        ];
        let named = self.reassembler.counters().named();
        named
            .into_iter()
            .chain(left_out)
            .map(|(name, value)| Counter {
                group: "fragments",
                name,
                value,
            })
    }

    /// What the kernel programs would have said of a packet whose client this is; a share is chosen here only
    /// of sessions. Counts what is left out.
    fn takes(&mut self, frame: &Captured<'_>, client: Endpoint, share: Share) -> bool {
        let hash = flow_hash(client);
        if !self.rules.shard.holds(hash) || !share.takes(hash) {
            self.left_out.not_selected += 1;
            return false;
        }
        let matches = self.rules.filter.as_ref().is_none_or(|filter| {
            let bytes = on_the_wire(frame, &mut self.tagged);
            filter.load().matches(bytes)
        });
        self.left_out.filtered += u64::from(!matches);
        matches
    }
}

/// The frame with the tag that the kernel has taken off it.
fn on_the_wire<'a>(frame: &Captured<'a>, tagged: &'a mut Vec<u8>) -> &'a [u8] {
    let (Some(tci), Some((addresses, rest))) =
        (frame.meta.vlan_tci, frame.bytes.split_at_checked(TAG_AT))
    else {
        return frame.bytes;
    };
    tagged.clear();
    tagged.extend_from_slice(addresses);
    tagged.extend(ethertype::VLAN.to_be_bytes());
    tagged.extend(tci.to_be_bytes());
    tagged.extend_from_slice(rest);
    tagged
}

impl Worker {
    /// Replays the packets that became whole, or hands them to their owners.
    #[cold]
    pub(super) fn replay_whole(&mut self, now: Nanos, stop_at: Option<Nanos>) {
        let mut ready = std::mem::take(&mut self.fragments.ready);
        for (meta, bytes) in ready.drain(..) {
            let frame = Captured {
                bytes: &bytes,
                meta,
            };
            self.whole(now, stop_at, &frame);
            if self.fragments.spare.len() < SPARE {
                self.fragments.spare.push(bytes);
            }
        }
        self.fragments.ready = ready;
    }

    fn whole(&mut self, now: Nanos, stop_at: Option<Nanos>, frame: &Captured<'_>) {
        let Self {
            id,
            workers,
            fragments,
            handover,
            transfers,
            decap,
            engine,
            datagrams,
            sender,
            intake,
            ..
        } = self;
        let rules = Intake::live(transfers, decap, self.pool_is_v4, stop_at);
        let mut give = |owner: u32, intake: &mut IntakeCounters| {
            let other = owner != *id;
            if other && !handover.send(owner as usize, frame) {
                intake.handover_full += 1;
            }
            other
        };
        let why = match (rules.take(frame), datagrams) {
            (Ok(taken), _) => {
                let client = taken.segment.client;
                let share = fragments.rules.share;
                if fragments.takes(frame, client, share)
                    && !give(owner(flow_hash(client), *workers), intake)
                {
                    for segment in taken.each() {
                        engine.captured_batch(now, &[segment], sender);
                    }
                }
                return;
            }
            (Err(Rejected::Undecodable(DecodeError::NotTcp)), Some(datagrams)) => {
                match datagrams.decode(frame, *workers) {
                    Ok((owner, taken)) => {
                        if fragments.takes(frame, taken.datagram.client, Share::ALL)
                            && !give(owner, intake)
                        {
                            datagrams.replay(now, &taken.datagram, sender);
                        }
                        return;
                    }
                    Err(why) => why,
                }
            }
            (Err(why), _) => why,
        };
        // Of the address of a transfer only: fragments are taken without a look at their ports.
        if why == Rejected::NoTransfer {
            fragments.left_out.no_transfer += 1;
        } else {
            intake.leave_out(why);
        }
    }
}
