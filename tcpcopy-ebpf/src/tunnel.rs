//! The mirror's further programs, for frames that may hold a packet in tunnels.
//!
//! ```text
//!  mirror ─ no TCP ─▶ mirror_tunnel ─ taken? ─▶ mirror_inner ─ a packet ─▶ mirror_found ─▶ redirect
//!                       │ sequence number          ▲  │ another tunnel,        │ -F         ▲
//!                       ▼                          └──┘ at most MAX_LAYERS     ▼            │
//!                     STREAMS                       │ a datagram               filter ─▶ mirror_selected
//!                                                   └─▶ mirror_inner_udp ─ -F ──▶ filter     │ a datagram
//!                                                         ▲ └─▶ redirect                     │
//!                                                         └──────────────────────────────────┘
//! ```
//! `mirror_tunnel` is attached itself if only tunnels are taken. What one program knows of the packet the
//! next finds in `INNER`: no stack is large enough to carry it along. A packet that is not taken is passed
//! on as it came: the host's own overlay may live on this port.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use common::abi::{
    DecapConfig, StreamKey, StreamState, TapCounter, config_flags, filter_slots,
    mirror_tail as tail, udp_slots,
};
use common::packet::{
    DecodeError, Endpoint, Header, MAX_LAYERS, Peeled, Position, TcpPacket, Tunnel, datagram_at,
    peel,
};
use ebpf_kit::config;
use ebpf_kit::linear::{Linear, opaque};

use crate::maps::{FILTERS, INNER, STREAMS, TAIL, UDP};
use crate::matching::{count, transferred, undecodable};
use crate::mirror::{log, redirect};
use crate::selection::{takes, takes_datagram};
use crate::udp;

/// What the programs of a chain leave for the next: one value for each CPU, which no other packet
/// overwrites, since XDP programs of one CPU do not nest.
#[repr(C)]
pub struct Inner {
    /// Offset of what is to be decoded, or of the packet that was; filters read it (first: see
    /// [`common::abi::INNER_OFFSET_AT`]).
    offset: u32,
    /// [`Header`] there.
    header: u32,
    /// Tunnels around it.
    layers: u32,
    /// What the filter judges: a [`kind`].
    kind: u32,
    /// The packet, behind a filter.
    packet: TcpPacket,
}

/// Values of [`Inner::kind`].
mod kind {
    /// `packet`.
    pub const TCP: u32 = 0;
    /// A datagram in no tunnel, which `packet` does not hold.
    pub const DATAGRAM: u32 = 1;
    /// A datagram in a tunnel.
    pub const INNER_DATAGRAM: u32 = 2;
}

/// Overridden by the loader, by this name; frozen, so the verifier knows each field.
#[unsafe(no_mangle)]
static DECAP: DecapConfig = DecapConfig::NONE;

/// Bits of [`common::abi::decap_flags`].
#[inline(always)]
pub fn decap_flags() -> u32 {
    // SAFETY: a valid static of plain integers. Volatile, since the compiler would else use the
    // initialiser, which is not what the loaded object holds.
    unsafe { (&raw const DECAP.flags).read_volatile() }
}

/// The whole configuration, from an address of which the compiler knows nothing.
#[inline(always)]
fn decap() -> &'static DecapConfig {
    // SAFETY: the address of a valid static of plain integers.
    unsafe { &*(opaque(&raw const DECAP as usize) as *const DecapConfig) }
}

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_tunnel(ctx: XdpContext) -> u32 {
    let config = decap();
    let (outer, next) = match peel(&Linear::of_xdp(&ctx), Position::FRAME, config) {
        Ok(Peeled::Tunnel(outer, next)) => (outer, next),
        Err(DecodeError::Fragment) => {
            // Of a tunnel's packet perhaps, of which the rest is elsewhere. Before `mirror` gets here
            // `mirror_fragments` has counted it.
            if !config.plain() {
                count(TapCounter::Fragment);
            }
            return XDP_PASS;
        }
        // What else cannot be decoded so far out is the host's business.
        _ => return XDP_PASS,
    };
    if !config.takes(&outer) {
        count(TapCounter::TunnelOther);
        return XDP_PASS;
    }
    count(TapCounter::Tunnelled);
    note_sequence(&outer);
    go_on(&ctx, next, 1);
    XDP_PASS
}

/// One layer of what is in the outermost tunnel.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_inner(ctx: XdpContext) -> u32 {
    let Some((position, layers)) = position() else {
        return XDP_PASS;
    };
    match peel(&Linear::of_xdp(&ctx), position, decap()) {
        Ok(Peeled::Packet(packet)) => {
            if let Some(inner) = INNER.get_ptr_mut(0) {
                // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
                unsafe {
                    (*inner).kind = kind::TCP;
                    (*inner).packet = packet;
                }
                // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
                unsafe { TAIL.tail_call(&ctx, tail::FOUND) };
            }
        }
        Ok(Peeled::Tunnel(_, next)) => {
            if layers < MAX_LAYERS as u32 {
                go_on(&ctx, next, layers + 1);
            }
            count(TapCounter::TunnelTooDeep);
        }
        Err(error) => {
            undecodable(error);
            if let Some(inner) = INNER.get_ptr_mut(0) {
                // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
                unsafe { (*inner).kind = kind::TCP };
            }
            udp::go_on(&ctx, error, udp_slots::INNER);
        }
    }
    XDP_PASS
}

/// A datagram is out of its tunnels, and has not been judged by the filter unless that is noted.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_inner_udp(ctx: XdpContext) -> u32 {
    let Some((position, _)) = position() else {
        return XDP_PASS;
    };
    let Some(inner) = INNER.get_ptr_mut(0) else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
    let selected = unsafe { (*inner).kind } == kind::INNER_DATAGRAM;
    let decoded = datagram_at(&Linear::of_xdp(&ctx), position);
    if !selected {
        if !udp::matches(&decoded) {
            return XDP_PASS;
        }
        if config::behind_filter() {
            // SAFETY: as above.
            unsafe { (*inner).kind = kind::INNER_DATAGRAM };
            call_filter(&ctx, position.header as u32);
            return XDP_PASS;
        }
    }
    match &decoded {
        Ok(p) => {
            if !takes_datagram(Endpoint::new(p.ip.src, p.udp.sport)) {
                return XDP_PASS;
            }
            if config::log_packets() {
                log(&ctx, &p.ip, [p.udp.sport, p.udp.dport]);
            }
            redirect(&ctx)
        }
        Err(_) => XDP_PASS,
    }
}

/// The packet is out of its tunnels.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_found(ctx: XdpContext) -> u32 {
    let Some(inner) = INNER.get_ptr(0) else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's value of the map, which `mirror_inner` has filled for this packet.
    let (packet, header) = unsafe { (&(*inner).packet, (*inner).header) };
    if !transferred(packet) {
        return XDP_PASS;
    }
    if !config::behind_filter() {
        return take(&ctx, packet);
    }
    call_filter(&ctx, header);
    XDP_PASS
}

/// Takes what the filter let through, where there may be tunnels.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_selected(ctx: XdpContext) -> u32 {
    let Some(inner) = INNER.get_ptr(0) else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's value of the map, which the asker has filled for this packet.
    let (packet, kind) = unsafe { (&(*inner).packet, (*inner).kind) };
    if kind != kind::TCP {
        let slot = if kind == kind::DATAGRAM {
            udp_slots::CAPTURE
        } else {
            udp_slots::INNER
        };
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { UDP.tail_call(&ctx, slot) };
        return XDP_PASS;
    }
    take(&ctx, packet)
}

#[inline(always)]
fn take(ctx: &XdpContext, packet: &TcpPacket) -> u32 {
    if !takes(
        Endpoint::new(packet.ip.src, packet.tcp.sport),
        packet.tcp.flags,
    ) {
        return XDP_PASS;
    }
    if config::log_packets() {
        log(ctx, &packet.ip, [packet.tcp.sport, packet.tcp.dport]);
    }
    redirect(ctx)
}

/// Hands a packet of the rules that came in no tunnel over to the filter. Returns only if there is none.
#[inline(always)]
pub fn ask_filter(ctx: &XdpContext, packet: &TcpPacket) {
    let Some(inner) = INNER.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
    unsafe {
        (*inner).offset = Position::FRAME.offset as u32;
        (*inner).kind = kind::TCP;
        (*inner).packet = *packet;
    }
    call_filter(ctx, Header::Ethernet as u32);
}

/// The same for a datagram, with which `mirror_udp` goes on.
#[inline(always)]
pub fn ask_filter_for_datagram(ctx: &XdpContext) {
    let Some(inner) = INNER.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
    unsafe {
        (*inner).offset = Position::FRAME.offset as u32;
        (*inner).kind = kind::DATAGRAM;
    }
    call_filter(ctx, Header::Ethernet as u32);
}

/// Goes on in the filter for a packet that begins with this [`Header`].
#[inline(always)]
fn call_filter(ctx: &XdpContext, header: u32) {
    let slot =
        if config::flags() & config_flags::INNER_FILTER != 0 && header != Header::Ethernet as u32 {
            filter_slots::IP_FILTER
        } else {
            filter_slots::FILTER
        };
    // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
    unsafe { FILTERS.tail_call(ctx, slot) };
}

/// Decodes what is at `position`, behind so many layers, in another program: each then has the stack
/// and the verifier's patience to itself. Returns only if that fails.
#[inline(always)]
fn go_on(ctx: &XdpContext, position: Position, layers: u32) {
    if let Some(inner) = INNER.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map; programs of one CPU do not nest here.
        unsafe {
            (*inner).offset = position.offset as u32;
            (*inner).header = position.header as u32;
            (*inner).layers = layers;
        }
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { TAIL.tail_call(ctx, tail::INNER) };
    }
}

/// What [`go_on`] left.
#[inline(always)]
fn position() -> Option<(Position, u32)> {
    let inner = INNER.get_ptr(0)?;
    // SAFETY: as above.
    let (offset, header, layers) = unsafe { ((*inner).offset, (*inner).header, (*inner).layers) };
    let header = match header {
        0 => Header::Ethernet,
        1 => Header::Ip,
        _ => Header::Mpls,
    };
    Some((Position::new(offset as usize, header), layers))
}

#[inline(always)]
fn note_sequence(tunnel: &Tunnel) {
    let Some(sequence) = tunnel.sequence else {
        return;
    };
    let key = StreamKey::of(tunnel);
    if let Some(state) = STREAMS.get_ptr_mut(key) {
        // SAFETY: a value of the map, written by the one CPU that gets this outer flow; should there be
        // two, counts suffer and nothing else.
        unsafe { (*state).note(sequence) };
    } else {
        // Full: streams beyond the capacity are not watched.
        let _ = STREAMS.insert(key, StreamState::first(sequence), 0);
    }
}
