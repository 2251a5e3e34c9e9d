//! Frames as a router with a small MTU leaves them.

/// Cuts the packet of an Ethernet frame without tags and options into fragments of `step` bytes of payload, a
/// multiple of eight. A packet of IPv4 has its identification in it, one of IPv6 gets `id`.
pub fn cut(frame: &[u8], step: usize, id: u32) -> Vec<Vec<u8>> {
    let v4 = frame[12..14] == [8, 0];
    let (headers, payload) = frame.split_at(if v4 { 34 } else { 54 });
    let last = payload.len().div_ceil(step) - 1;
    let pieces = payload.chunks(step).enumerate().map(|(n, piece)| {
        let (at, more) = (n * step, n < last);
        let mut out = headers.to_vec();
        if v4 {
            let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
            out[16..18].copy_from_slice(&((20 + piece.len()) as u16).to_be_bytes());
            out[20..22].copy_from_slice(&field.to_be_bytes());
        } else {
            let field = at as u16 | u16::from(more);
            out[18..20].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
            let next = std::mem::replace(&mut out[20], 44);
            out.extend([next, 0]);
            out.extend(field.to_be_bytes());
            out.extend(id.to_be_bytes());
        }
        out.extend_from_slice(piece);
        out
    });
    pieces.collect()
}
