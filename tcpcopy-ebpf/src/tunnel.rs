//! The mirror's further programs, for frames that may hold a packet in tunnels.
//!
//! ```text
//!  mirror ─ no TCP ─▶ mirror_tunnel ─ taken? ─▶ mirror_inner ─ a packet ─▶ match ─▶ redirect
//!                       │ sequence number          ▲  │ another tunnel, at most MAX_LAYERS
//!                       ▼                          └──┘
//!                     STREAMS
//! ```
//! `mirror_tunnel` is attached itself if only tunnels are taken. A packet that is not taken is passed on as it came: the host's own overlay may live on this port.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use common::abi::{DecapConfig, StreamKey, StreamState, TapCounter, mirror_tail as tail};
use common::packet::{DecodeError, Header, MAX_LAYERS, Peeled, Position, Tunnel, peel};
use ebpf_kit::config;
use ebpf_kit::linear::{Linear, opaque};

use crate::maps::{POSITION, STREAMS, TAIL};
use crate::matching::{count, matches};
use crate::mirror::{log, redirect};

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
            // Of a tunnel's packet perhaps, of which the rest is elsewhere. `mirror` has counted it
            // if it ran.
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
    let inner = match peel(&Linear::of_xdp(&ctx), position, decap()) {
        Ok(Peeled::Packet(packet)) => Ok(packet),
        Ok(Peeled::Tunnel(_, next)) => {
            if layers < MAX_LAYERS as u32 {
                go_on(&ctx, next, layers + 1);
            }
            count(TapCounter::TunnelTooDeep);
            return XDP_PASS;
        }
        Err(error) => Err(error),
    };
    if !matches(&inner) {
        return XDP_PASS;
    }
    if config::log_packets()
        && let Ok(p) = &inner
    {
        log(&ctx, &p.ip, [p.tcp.sport, p.tcp.dport]);
    }
    redirect(&ctx)
}

/// Decodes what is at `position`, behind so many layers, in another program: each then has the stack
/// and the verifier's patience to itself. Returns only if that fails.
#[inline(always)]
fn go_on(ctx: &XdpContext, position: Position, layers: u32) {
    if let Some(slot) = POSITION.get_ptr_mut(0) {
        // SAFETY: this CPU's slot of the map; programs of one CPU do not nest here.
        unsafe { slot.write([position.offset as u32, position.header as u32, layers]) };
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { TAIL.tail_call(ctx, tail::INNER) };
    }
}

/// What [`go_on`] left.
#[inline(always)]
fn position() -> Option<(Position, u32)> {
    let slot = POSITION.get_ptr_mut(0)?;
    // SAFETY: as above.
    let [offset, header, layers] = unsafe { slot.read() };
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
