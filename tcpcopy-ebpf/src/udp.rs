//! UDP: looked at only if the transfer list has some, and only what is not TCP.
//!
//! A packet is decoded a second time then, which spares TCP, the usual case, every test.

use common::abi::{EndpointKey, TapCounter, config_flags};
use common::packet::{Addr, DecodeError, Endpoint, TcpPacket, UdpPacket};
use ebpf_kit::{config, counters};

use crate::maps::{TARGETS, TRANSFERS};
use crate::matching::count;

/// True if UDP is worth a look after TCP was not it.
#[inline(always)]
pub fn wanted(decoded: &Result<TcpPacket, DecodeError>) -> bool {
    config::flags() & config_flags::UDP_RULES != 0 && matches!(decoded, Err(DecodeError::NotTcp))
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
    let mut key = EndpointKey::udp(online);
    if TARGETS.get_ptr(key).is_some() {
        count(TapCounter::ToTarget);
        return false;
    }
    let mut found = TRANSFERS.get_ptr(key).is_some();
    if !found {
        key.addr = Addr::ANY;
        found = TRANSFERS.get_ptr(key).is_some();
    }
    found
}
