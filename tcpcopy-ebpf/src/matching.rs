//! Which packets are captured.

use common::abi::{EndpointKey, TapCounter, config_flags};
use common::packet::{Addr, DecodeError, Endpoint, TcpPacket};
use ebpf_kit::{config, counters};

use crate::maps::{COUNTERS, TARGETS, TRANSFERS};

/// Counts.
#[inline(always)]
pub fn count(counter: TapCounter) {
    counters::bump(&COUNTERS, counter.index());
}

/// True if the packet is to be captured. Everything else that is worth a figure is counted here.
///
/// Targets come first: a transfer that names only a port may cover its own target, and what we send
/// there must not be captured again.
#[inline(always)]
pub fn matches(decoded: &Result<TcpPacket, DecodeError>) -> bool {
    let packet = match decoded {
        Ok(packet) => packet,
        Err(error) => {
            if let Some(counter) = counters::tap_error(*error) {
                count(counter);
            }
            return false;
        }
    };
    let mut key = EndpointKey::new(Endpoint::new(packet.ip.dst, packet.tcp.dport));
    let any = EndpointKey::any(packet.tcp.dport);
    let flags = config::flags();
    if TARGETS.get_ptr(key).is_some()
        || (flags & config_flags::ANY_TARGETS != 0 && TARGETS.get_ptr(any).is_some())
    {
        count(TapCounter::ToTarget);
        return false;
    }
    if TRANSFERS.get_ptr(key).is_some() {
        return true;
    }
    if flags & config_flags::ANY_RULES == 0 {
        return false;
    }
    key.addr = Addr::ANY;
    TRANSFERS.get_ptr(key).is_some()
}
