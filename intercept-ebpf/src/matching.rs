//! Which packets are responses.

use common::abi::{EndpointKey, InterceptCounter, config_flags};
use common::packet::{
    Addr, Bytes, DecodeError, Endpoint, Ip, TcpPacket, decode_ethernet, decode_ip, decode_tcp,
    decode_udp, protocol,
};
use ebpf_kit::{config, counters};

use crate::maps::{COUNTERS, LOCAL, RESPONSES};

#[inline(always)]
pub fn count(counter: InterceptCounter) {
    counters::bump(&COUNTERS, counter.index());
}

/// What is no TCP packet.
pub enum Undecoded {
    /// A UDP target's answer to a replayed client.
    Udp,
    /// Anything else.
    Error(DecodeError),
}

impl From<DecodeError> for Undecoded {
    #[inline(always)]
    fn from(error: DecodeError) -> Self {
        Self::Error(error)
    }
}

/// `decode_frame` with a look at the source of fragments and UDP on the way.
#[inline(always)]
pub fn decode<B: Bytes>(bytes: &B) -> Result<TcpPacket, Undecoded> {
    let ether = decode_ethernet(bytes)?;
    if !ether.is_ip() {
        return Err(DecodeError::NotIp.into());
    }
    let ip = decode_ip(bytes, ether.l3)?;
    if ip.protocol == protocol::UDP && udp_answer(bytes, &ip) {
        return Err(Undecoded::Udp);
    }
    if ip.fragment {
        if taken(ip.src, 0) {
            count(InterceptCounter::Fragment);
        }
        return Err(DecodeError::Fragment.into());
    }
    if ip.protocol != protocol::TCP {
        return Err(DecodeError::NotTcp.into());
    }
    let tcp = decode_tcp(bytes, &ip)?;
    Ok(TcpPacket { ip, tcp })
}

/// [`udp_answer`] of a whole frame: no filter is asked about those.
#[inline(always)]
pub fn is_udp_answer<B: Bytes>(bytes: &B) -> bool {
    let Ok(ether) = decode_ethernet(bytes) else {
        return false;
    };
    if !ether.is_ip() {
        return false;
    }
    decode_ip(bytes, ether.l3)
        .is_ok_and(|ip| ip.protocol == protocol::UDP && udp_answer(bytes, &ip))
}

/// True if a UDP target sent this, to a client and not to this host. Such rules always come from peers.
/// Fragments, of which all but the first carry no port, go by the address.
#[inline(always)]
fn udp_answer<B: Bytes>(bytes: &B, ip: &Ip) -> bool {
    let port = if ip.fragment {
        0
    } else if let Ok(udp) = decode_udp(bytes, ip) {
        if udp.sport == 0 {
            return false;
        }
        udp.sport
    } else {
        return false;
    };
    let key = EndpointKey::udp(Endpoint::new(ip.src, port));
    RESPONSES.get_ptr(key).is_some() && LOCAL.get_ptr(ip.dst).is_none()
}

/// True if a rule names this source, or the packet has passed the filter.
#[inline(always)]
fn taken(src: Addr, port: u16) -> bool {
    config::behind_filter()
        || RESPONSES
            .get_ptr(EndpointKey::new(Endpoint::new(src, port)))
            .is_some()
}

/// True if the packet is for this host itself and the rule was given by a peer.
#[inline(always)]
fn protected(dst: Addr) -> bool {
    config::flags() & config_flags::LEARNED_RULES != 0 && LOCAL.get_ptr(dst).is_some()
}

/// True if the packet is a response that is to be taken.
#[inline(always)]
pub fn is_response(p: &TcpPacket) -> bool {
    p.tcp.sport != 0 && taken(p.ip.src, p.tcp.sport) && !protected(p.ip.dst)
}

/// Counts a packet that cannot be decoded.
#[inline(always)]
pub fn undecodable(error: DecodeError) {
    if let Some(counter) = counters::intercept_error(error) {
        count(counter);
    }
}
