//! TCP options.

use common::packet::{MAX_SACK_BLOCKS, TcpOptions};

/// Longest option area (RFC 9293 section 3.1: 15 words of header, 5 of them fixed).
const AREA_BYTES: usize = 40;

/// What is read is within bounds, and is the same when written and read again.
pub fn parse(data: &[u8]) {
    let area = &data[..data.len().min(AREA_BYTES)];
    let (read, sack) = TcpOptions::parse_with_sack(area);
    assert_eq!(TcpOptions::parse(area), read);
    assert!(sack.as_slice().len() <= MAX_SACK_BLOCKS);
    assert!(read.window_scale.is_none_or(|shift| shift <= 14));
    let mut written = [0xee; AREA_BYTES];
    let len = read.emit(&mut written);
    assert!(len <= AREA_BYTES && len.is_multiple_of(4), "{read:?}");
    assert_eq!(TcpOptions::parse(&written[..len]), read);
}
