//! `mirror_tunnel`: the mirror program's second half, for frames that may hold a packet in tunnels.
//!
//! ```text
//!  mirror ─ neither TCP nor … ─▶ outermost tunnel: taken? ─▶ further tunnels ─▶ match ─▶ redirect
//!                                   │ sequence number ─▶ STREAMS
//! ```
//! A packet that is not taken is passed on as it came: the host's own overlay may live on this port.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use common::abi::{DecapConfig, StreamKey, StreamState, TapCounter};
use common::packet::{
    DecodeError, Header, MAX_LAYERS, Peeled, Position, TcpPacket, Tunnel, peel,
};
use ebpf_kit::linear::{Linear, opaque};

use crate::maps::{POSITION, STREAMS};
use crate::matching::{count, matches};
use crate::mirror::redirect;

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
    let bytes = Linear::of_xdp(&ctx);
    let config = decap();
    // What cannot be decoded so far out is the host's business.
    let Ok(Peeled::Tunnel(outer, next)) = peel(&bytes, Position::FRAME, config) else {
        return XDP_PASS;
    };
    if !config.takes(&outer) {
        count(TapCounter::TunnelOther);
        return XDP_PASS;
    }
    count(TapCounter::Tunnelled);
    note_sequence(&outer);
    let Some(inner) = innermost(&bytes, next, config) else {
        return XDP_PASS;
    };
    if matches(&inner)
        && let Ok(packet) = &inner
    {
        return redirect(&ctx, packet);
    }
    XDP_PASS
}

/// The packet at the end of all tunnels; `None` if there are too many.
#[inline(always)]
fn innermost(
    bytes: &Linear,
    from: Position,
    config: &DecapConfig,
) -> Option<Result<TcpPacket, DecodeError>> {
    let mut position = forget(from)?;
    for _ in 0..MAX_LAYERS {
        match peel(bytes, position, config) {
            Ok(Peeled::Packet(packet)) => return Some(Ok(packet)),
            Ok(Peeled::Tunnel(_, next)) => position = forget(next)?,
            Err(error) => return Some(Err(error)),
        }
    }
    count(TapCounter::TunnelTooDeep);
    None
}

/// The same position, by way of memory whose contents the verifier does not follow. It would else try
/// each layer once for every way through all layers before.
#[inline(always)]
fn forget(position: Position) -> Option<Position> {
    let slot = POSITION.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot of the map; programs of one CPU do not nest here.
    let [offset, header] = unsafe {
        slot.write_volatile([position.offset as u32, position.header as u32]);
        slot.read_volatile()
    };
    let header = match header {
        0 => Header::Ethernet,
        1 => Header::Ip,
        _ => Header::Mpls,
    };
    Some(Position::new(offset as usize, header))
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
