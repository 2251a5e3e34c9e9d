//! Packets of connections whose SYN was not seen: not yet, or never.
//!
//! ```text
//!  of no session ──▶ early ──its SYN comes──▶ open the session, then the packets
//!                      └────none in time, or no room──▶ strangers: adopted at a request, or booked
//! ```

use super::Engine;
use crate::early::Waiting;
use crate::strangers::begins_before;
use crate::table::CaptureKey;
use crate::{Outcome, Output};
use common::flow::{ClientSegment, Nanos};

impl Engine {
    /// A packet of a connection that may be unknown: it waits for its SYN, or is treated without one.
    #[cold]
    #[inline(never)]
    pub(super) fn captured_in_front<O: Output>(
        &mut self,
        known: Option<u32>,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let early = match known.and_then(|id| self.sessions.get(id)) {
            Some(session) => session.is_over_before(seg.seq, &self.all.limits),
            None => !self.strangers.expects(&key, seg.seq),
        };
        let wait = self.all.config.syn_wait;
        if !early || wait == Nanos(0) || !self.accepting {
            self.captured_without_syn(known, key, seg, out);
            return;
        }
        let due = self.all.now.at + wait;
        if self.early.hold(key, due, seg) {
            self.all.totals.segments_early += 1;
            return;
        }
        // No room. What waits of the same connection goes first.
        let packets = self.early.take(&key);
        self.let_go(packets, key, out);
        self.captured_without_wait(key, seg, out);
    }

    fn captured_without_syn<O: Output>(
        &mut self,
        known: Option<u32>,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        if let Some(id) = known {
            self.run(id, out, |s, cx| s.captured(cx, seg));
        } else if self.ramping() && !self.strangers.knows(&key) {
            // It began before the ramp reached it, and stays out until the ramp is over.
        } else if self.may_adopt() && self.strangers.adopt(&mut self.all.totals, &key, seg) {
            self.open(key, seg, out);
        } else {
            self.strangers
                .see(&mut self.all.totals, key, seg, Outcome::SkippedNoSyn);
        }
    }

    /// The same, whatever has happened to its connection since it came.
    fn captured_without_wait<O: Output>(
        &mut self,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let hash = self.index.hash(seg.client);
        let known = self.find(hash, seg, key.replica);
        let known = known.filter(|id| !self.may_join_again(*id, key));
        self.captured_without_syn(known, key, seg, out);
    }

    /// Treats packets whose wait is over, in the order in which they came.
    #[cold]
    #[inline(never)]
    pub(super) fn let_go<O: Output>(
        &mut self,
        packets: Vec<Waiting>,
        key: CaptureKey,
        out: &mut O,
    ) {
        for packet in &packets {
            self.captured_without_wait(key, &packet.segment(), out);
        }
        self.early.give_back(packets);
    }

    /// Packets that waited for this SYN. Others of its tuple are older, and treated before it, which may
    /// make `known` another session.
    #[cold]
    #[inline(never)]
    pub(super) fn take_early<O: Output>(
        &mut self,
        known: &mut Option<u32>,
        key: CaptureKey,
        syn: &ClientSegment<'_>,
        out: &mut O,
    ) -> Vec<Waiting> {
        let packets = self.early.take(&key);
        if packets.is_empty() {
            return packets;
        }
        let (its, older): (Vec<_>, Vec<_>) = packets
            .into_iter()
            .partition(|p| begins_before(syn.seq, p.segment().seq));
        if !older.is_empty() {
            self.let_go(older, key, out);
            *known = self.find(self.index.hash(syn.client), syn, key.replica);
        }
        its
    }

    /// Lets those go whose SYN should have come until `now`.
    #[cold]
    pub(super) fn end_waits<O: Output>(&mut self, now: Nanos, out: &mut O) {
        while let Some(key) = self.early.over(now) {
            let packets = self.early.take(&key);
            self.let_go(packets, key, out);
        }
    }
}
