//! Which packets are captured.
//!
//! ```text
//!  port of a transfer? ─▶ its address?                ─▶ not to a target?                 ─▶ selection.rs
//!   (one array look)       (hash, unless any will do)     (hash, if a transfer covers one)
//!  └── a usual packet, few transfers: compared with constants ──┘
//! ```
//! Most packets of a production host are of no transfer: they end at the first or second step.

use common::abi::{EndpointKey, PortWord, TapCounter, config_flags};
use common::packet::{DecodeError, Endpoint, TcpPacket, Usual};
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
    let destination = Endpoint::new(packet.ip.dst, packet.tcp.dport);
    listed(destination) && !to_target(destination)
}

/// The same for a usual packet: with few transfers nothing is looked up.
#[inline(always)]
pub fn usual_transferred(packet: &Usual) -> bool {
    let flags = config::flags();
    let listed = if flags & config_flags::FEW_RULES == 0 {
        listed(packet.destination())
    } else {
        config::few_name(packet.destination_number())
            || (flags & config_flags::ANY_RULES != 0 && any_address(packet.dport()))
    };
    listed && !to_target(packet.destination())
}

/// A transfer names this endpoint or its port.
#[inline(always)]
fn listed(destination: Endpoint) -> bool {
    let port = destination.port;
    let Some(word) = PORTS.get(PortWord::index(port)) else {
        return false;
    };
    let bit = PortWord::bit(port);
    let flags = config::flags();
    (flags & config_flags::ANY_RULES != 0 && word.any & bit != 0)
        || (flags & config_flags::EXACT_RULES != 0
            && word.exact & bit != 0
            && TRANSFERS.get_ptr(EndpointKey::new(destination)).is_some())
}

/// A transfer names this port on any address.
#[inline(always)]
fn any_address(port: u16) -> bool {
    PORTS
        .get(PortWord::index(port))
        .is_some_and(|word| word.any & PortWord::bit(port) != 0)
}

/// Something on a transfer's way goes to a target.
#[inline(always)]
fn to_target(destination: Endpoint) -> bool {
    let flags = config::flags();
    if flags & config_flags::COVERED_TARGETS == 0 {
        return false;
    }
    let target = TARGETS.get_ptr(EndpointKey::new(destination)).is_some()
        || (flags & config_flags::ANY_TARGETS != 0
            && TARGETS
                .get_ptr(EndpointKey::any(destination.port))
                .is_some());
    if target {
        count(TapCounter::ToTarget);
    }
    target
}
