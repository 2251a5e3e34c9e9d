//! Blocks of the pcapng format, little-endian.
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u32 = 1;
/// libpcap's MAXIMUM_SNAPLEN: some readers take a limit of 0 for what it says.
const SNAPLEN_BYTES: u32 = 262_144;
/// The section's length is not known beforehand.
const LENGTH_UNKNOWN: u64 = u64::MAX;

const OPTION_END: u16 = 0;
const SECTION_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// 10^-9.
const NANOSECONDS: u8 = 9;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const ISB_OSDROP: u16 = 7;

/// Tag protocol 802.1Q.
const VLAN: [u8; 2] = [0x81, 0x00];
const MACS_BYTES: usize = 12;
const TAG_BYTES: usize = 4;

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    option(out, OPTION_END, &[]);
}

/// Writes a block around what `body` writes.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    pad(out);
    let size = ((out.len() + 4 - start) as u32).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&size);
    out.extend_from_slice(&size);
}

/// A time in two halves, the upper first.
fn time(at_ns: u64) -> [u8; 8] {
    let mut halves = [0; 8];
    halves[..4].copy_from_slice(&((at_ns >> 32) as u32).to_le_bytes());
    halves[4..].copy_from_slice(&(at_ns as u32).to_le_bytes());
    halves
}

/// What a file begins with: the section and its interface.
pub(super) fn header(out: &mut Vec<u8>, application: &str, interface: &str) {
    block(out, SECTION, |out| {
        out.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        out.extend_from_slice(&1u16.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&LENGTH_UNKNOWN.to_le_bytes());
        option(out, SECTION_USERAPPL, application.as_bytes());
        end_of_options(out);
    });
    block(out, INTERFACE, |out| {
        out.extend_from_slice(&ETHERNET.to_le_bytes());
        out.extend_from_slice(&SNAPLEN_BYTES.to_le_bytes());
        option(out, IF_NAME, interface.as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(out);
    });
}

/// A frame. `tag` is a VLAN tag that the kernel keeps beside the bytes: it is put back where it was.
pub(super) fn packet(out: &mut Vec<u8>, at_ns: u64, bytes: &[u8], len: u32, tag: Option<u16>) {
    let tag = tag.filter(|_| bytes.len() >= MACS_BYTES);
    let added = if tag.is_some() { TAG_BYTES } else { 0 };
    let captured = (bytes.len() + added) as u32;
    block(out, ENHANCED_PACKET, |out| {
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&time(at_ns));
        out.extend_from_slice(&captured.to_le_bytes());
        out.extend_from_slice(&len.saturating_add(added as u32).max(captured).to_le_bytes());
        let (macs, rest) = bytes.split_at(if tag.is_some() { MACS_BYTES } else { 0 });
        out.extend_from_slice(macs);
        if let Some(tci) = tag {
            out.extend_from_slice(&VLAN);
            out.extend_from_slice(&tci.to_be_bytes());
        }
        out.extend_from_slice(rest);
    });
}

/// What was received and lost on the interface.
pub(super) fn statistics(out: &mut Vec<u8>, s: &super::Statistics) {
    block(out, STATISTICS, |out| {
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&time(s.until_ns));
        option(out, ISB_STARTTIME, &time(s.since_ns));
        option(out, ISB_ENDTIME, &time(s.until_ns));
        option(out, ISB_IFRECV, &s.received.to_le_bytes());
        option(out, ISB_IFDROP, &s.lost_in_capture.to_le_bytes());
        option(out, ISB_OSDROP, &s.lost_in_queue.to_le_bytes());
        end_of_options(out);
    });
}
