//! UDP: looked at only if the transfer list has some, and only what is not TCP.
//!
//! ```text
//!  tap ──── not TCP ──▶ tap_udp              tap_filtered ──── not TCP ──▶ tap_udp_filtered ──▶ filter
//! ```
//! A packet is decoded a second time then, by a program of its own, which spares TCP, the usual case,
//! every test.

use aya_ebpf::EbpfContext;
use common::abi::{EndpointKey, TapCounter, config_flags};
use common::packet::{Addr, DecodeError, Endpoint, UdpPacket};
use ebpf_kit::{config, counters};

use crate::maps::{TARGETS, TRANSFERS, UDP};
use crate::matching::count;

/// Goes on in the program of this slot (of [`common::abi::udp_slots`]) if a packet with this error may be UDP and there
/// are rules for it; else returns.
#[inline(always)]
pub fn go_on<C: EbpfContext>(ctx: &C, error: DecodeError, slot: u32) {
    if config::flags() & config_flags::UDP_RULES != 0 && matches!(error, DecodeError::NotTcp) {
        // SAFETY: does not return if it succeeds; the callers own nothing that would have to be dropped.
        unsafe { UDP.tail_call(ctx, slot) };
    }
}

/// True if the datagram is to be captured; what goes to a target is not, as with TCP.
#[inline(always)]
pub fn matches(decoded: &Result<UdpPacket, DecodeError>) -> bool {
    let packet = match decoded {
        Ok(packet) => packet,
        Err(error) => {
            if let Some(counter) = counters::tap_error(*error) {
                count(counter);
            }
            return false;
        }
    };
    let online = Endpoint::new(packet.ip.dst, packet.udp.dport);
    let key = EndpointKey::udp(online);
    let mut any = key;
    any.addr = Addr::ANY;
    if TRANSFERS.get_ptr(key).is_none() && TRANSFERS.get_ptr(any).is_none() {
        return false;
    }
    if TARGETS.get_ptr(key).is_some() {
        count(TapCounter::ToTarget);
        return false;
    }
    true
}
