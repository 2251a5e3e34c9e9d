//! Packet bytes of an skb wherever they lie, by helper.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use common::packet::{
    Bytes, DecodeError, TcpPacket, UdpPacket, decode_any_frame, decode_udp_frame,
};

use crate::linear::Linear;

/// Reads through `bpf_skb_load_bytes`: slower than [`Linear`], but reaches page fragments.
pub struct SkbBytes<'a>(pub &'a TcContext);

impl Bytes for SkbBytes<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: the context of the running program, and a buffer of `N` bytes. The helper fails
        // unless all of them exist.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        (failed == 0).then_some(bytes)
    }
}

/// Decodes from the linear part, which holds all headers for nearly every driver, and only if they
/// go beyond it by helper. For what `decode_usual` did not know.
#[inline(always)]
pub fn decode(ctx: &TcContext) -> Result<TcpPacket, DecodeError> {
    match decode_any_frame(&Linear::of_skb(ctx)) {
        Err(DecodeError::Truncated) if ctx.data_end() - ctx.data() < ctx.len() as usize => {
            decode_any_frame(&SkbBytes(ctx))
        }
        decoded => decoded,
    }
}

/// The same down to UDP.
#[inline(always)]
pub fn decode_udp(ctx: &TcContext) -> Result<UdpPacket, DecodeError> {
    match decode_udp_frame(&Linear::of_skb(ctx)) {
        Err(DecodeError::Truncated) if ctx.data_end() - ctx.data() < ctx.len() as usize => {
            decode_udp_frame(&SkbBytes(ctx))
        }
        decoded => decoded,
    }
}
