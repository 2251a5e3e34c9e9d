//! Which packets are captured.
//!
//! ```text
//!  port of a transfer? ─▶ its address?                ─▶ not to a target?                 ─▶ selection.rs
//!   (one array look)       (hash, unless any will do)     (hash, if a transfer covers one)
//! ```
//! Most packets of a production host are of no transfer: they end at the first or second step.

use common::abi::{EndpointKey, PortWord, TapCounter, config_flags};
use common::packet::{DecodeError, Endpoint, TcpPacket};
use ebpf_kit::{config, counters};

use crate::maps::{COUNTERS, PORTS, TARGETS, TRANSFERS};

/// Counts.
#[inline(always)]
pub fn count(counter: TapCounter) {
    counters::bump(&COUNTERS, counter.index());
}

/// Counts a packet that cannot be decoded.
#[inline(always)]
pub fn undecodable(error: DecodeError) {
    if let Some(counter) = counters::tap_error(error) {
        count(counter);
    }
}

/// True if a transfer covers the packet, and it does not go to a target, which is counted.
///
/// A transfer that names only a port may cover its own target, and what we send there must not be
/// captured again: so what matches a transfer must not go to a target. What goes to a target and
/// matches no transfer would not be captured anyway.
#[inline(always)]
pub fn transferred(packet: &TcpPacket) -> bool {
    let port = packet.tcp.dport;
    let Some(word) = PORTS.get(PortWord::index(port)) else {
        return false;
    };
    let bit = PortWord::bit(port);
    let flags = config::flags();
    let key = EndpointKey::new(Endpoint::new(packet.ip.dst, port));
    let listed = (flags & config_flags::ANY_RULES != 0 && word.any & bit != 0)
        || (flags & config_flags::EXACT_RULES != 0
            && word.exact & bit != 0
            && TRANSFERS.get_ptr(key).is_some());
    if !listed {
        return false;
    }
    let any = EndpointKey::any(port);
    if flags & config_flags::COVERED_TARGETS != 0
        && (TARGETS.get_ptr(key).is_some()
            || (flags & config_flags::ANY_TARGETS != 0 && TARGETS.get_ptr(any).is_some()))
    {
        count(TapCounter::ToTarget);
        return false;
    }
    true
}
