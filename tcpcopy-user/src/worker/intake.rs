//! From captured frames to client segments, and to the worker that owns them.
//!
//! ```text
//!  Captured ─decode─▶ transfer lookup ─▶ owner? ─mine──▶ ClientSegment ─▶ engine
//!                                          └─other's─▶ hand-over ring, the frame as it is
//! ```

use crate::transfers::{Lookup, TransferTable};
use common::flow::{Captured, ClientSegment, Nanos};
use common::packet::{DecodeError, Endpoint, TcpOptions, decode_frame};

/// Frames by what became of them before the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntakeCounters {
    /// Frames taken from this worker's own sources.
    pub frames: u64,
    /// Frames taken from other workers.
    pub handed_over: u64,
    /// Captured after the end of the run.
    pub after_end: u64,
    /// Not to be decoded, by [`DecodeError`].
    pub undecodable: [u64; DECODE_ERRORS],
    /// To a target: our own output, seen again.
    pub to_target: u64,
    /// To no address of the transfer list.
    pub no_transfer: u64,
    /// The client's address family is not the target's, and no `-c` gives it another one.
    pub other_family: u64,
    /// Another worker's frame that its ring had no room for.
    pub handover_full: u64,
}

const DECODE_ERRORS: usize = 7;

/// Names of [`IntakeCounters::undecodable`] in reports.
pub const DECODE_ERROR_NAMES: [(DecodeError, &str); DECODE_ERRORS] = [
    (DecodeError::Truncated, "truncated"),
    (DecodeError::NotIp, "not_ip"),
    (DecodeError::BadIp, "bad_ip"),
    (DecodeError::Fragment, "fragment"),
    (DecodeError::NotTcp, "not_tcp"),
    (DecodeError::BadTcp, "bad_tcp"),
    (DecodeError::BadUdp, "bad_udp"),
];

impl IntakeCounters {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.handed_over += other.handed_over;
        self.after_end += other.after_end;
        for (a, b) in self.undecodable.iter_mut().zip(other.undecodable) {
            *a += b;
        }
        self.to_target += other.to_target;
        self.no_transfer += other.no_transfer;
        self.other_family += other.other_family;
        self.handover_full += other.handover_full;
    }

    /// Counts an undecodable frame.
    pub fn undecodable(&mut self, error: DecodeError) {
        if let Some(n) = self.undecodable.get_mut(error as usize) {
            *n += 1;
        }
    }
}

/// What is not passed on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Captured after the end of the run.
    AfterEnd,
    /// Cannot be decoded.
    Undecodable(DecodeError),
    /// On its way to a target.
    ToTarget,
    /// Not in the transfer list.
    NoTransfer,
    /// Two address families.
    OtherFamily,
}

/// Rules that turn frames into segments.
#[derive(Clone, Copy, Debug)]
pub struct Intake<'a> {
    /// The transfer list.
    pub transfers: &'a TransferTable,
    /// Family of the addresses that stand in for clients', if there are such.
    pub pool_is_v4: Option<bool>,
    /// Frames captured later are not part of the run.
    pub stop_at: Option<Nanos>,
}

impl Intake<'_> {
    /// Decodes one frame.
    pub fn segment<'p>(&self, frame: &Captured<'p>) -> Result<ClientSegment<'p>, Rejected> {
        if self.stop_at.is_some_and(|end| frame.meta.at > end) {
            return Err(Rejected::AfterEnd);
        }
        let bytes = frame.bytes;
        let packet = decode_frame(bytes).map_err(Rejected::Undecodable)?;
        let online = Endpoint::new(packet.ip.dst, packet.tcp.dport);
        let target = match self.transfers.lookup(online) {
            Lookup::Target(target) => target,
            Lookup::ToTarget => return Err(Rejected::ToTarget),
            Lookup::Miss => return Err(Rejected::NoTransfer),
        };
        let client = Endpoint::new(packet.ip.src, packet.tcp.sport);
        if self.pool_is_v4.unwrap_or(client.addr.is_v4()) != target.addr.is_v4() {
            return Err(Rejected::OtherFamily);
        }
        let frame_len = (frame.meta.frame_len as usize).max(bytes.len());
        let payload_len = packet.payload_len(frame_len);
        let start = packet.tcp.payload.min(bytes.len());
        // Short frames are padded to 60 bytes on the wire; the IP length says where data ends.
        let end = start.saturating_add(payload_len).min(bytes.len());
        let options = bytes
            .get(packet.ip.l4 + 20..start)
            .map_or_else(TcpOptions::default, TcpOptions::parse);
        Ok(ClientSegment {
            client,
            online,
            target,
            seq: packet.tcp.seq,
            ack: packet.tcp.ack,
            flags: packet.tcp.flags,
            window: packet.tcp.window,
            options,
            payload: bytes.get(start..end).unwrap_or_default(),
            payload_len: payload_len as u32,
            gso_size: frame.meta.gso_size,
            at: frame.meta.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;
    use common::flow::CaptureMeta;
    use common::packet::{FrameAddresses, SeqNumber, TcpFlags, TcpFrame, build_tcp_frame};

    fn at(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    fn frame(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let tcp = TcpFrame {
            src: at(src),
            dst: at(dst),
            seq: SeqNumber(u32::MAX - 1),
            ack: SeqNumber(7),
            flags: TcpFlags::ACK.with(TcpFlags::PSH),
            window: 99,
            options: TcpOptions {
                timestamps: Some(common::packet::Timestamps { val: 1, ecr: 2 }),
                ..TcpOptions::default()
            },
            payload,
            ip_id: 1,
        };
        let len = build_tcp_frame(&mut bytes, FrameAddresses::default(), &tcp).unwrap();
        bytes.truncate(len);
        bytes
    }

    fn captured(bytes: &[u8], at: u64) -> Captured<'_> {
        let meta = CaptureMeta {
            at: Nanos(at),
            frame_len: bytes.len() as u32,
            ..CaptureMeta::default()
        };
        Captured { bytes, meta }
    }

    #[test]
    fn what_is_taken_and_what_is_not() {
        let table = TransferTable::new(
            &parse_transfers(["80-10.0.0.30:8080,10.0.0.20:81-10.0.0.31:80"]).unwrap(),
        );
        let intake = Intake {
            transfers: &table,
            pool_is_v4: None,
            stop_at: Some(Nanos(1000)),
        };
        let client = "192.0.2.1:4000";
        let of = |bytes: &[u8], at| intake.segment(&captured(bytes, at)).map(|s| s.target);
        assert_eq!(
            of(&frame(client, "10.0.0.20:80", b"x"), 1000),
            Ok(at("10.0.0.30:8080"))
        );
        assert_eq!(
            of(&frame(client, "10.0.0.20:81", b"x"), 1),
            Ok(at("10.0.0.31:80"))
        );
        for (bytes, time, why) in [
            (
                frame(client, "10.0.0.20:80", b"x"),
                1001,
                Rejected::AfterEnd,
            ),
            (frame(client, "10.0.0.21:81", b"x"), 1, Rejected::NoTransfer),
            (frame(client, "10.0.0.30:8080", b"x"), 1, Rejected::ToTarget),
            (
                frame("[2001:db8::1]:4000", "[2001:db8::2]:80", b"x"),
                1,
                Rejected::OtherFamily,
            ),
            (vec![0; 20], 1, Rejected::Undecodable(DecodeError::NotIp)),
        ] {
            assert_eq!(of(&bytes, time), Err(why));
        }
    }

    #[test]
    fn padding_is_no_payload_and_cut_captures_are_known() {
        let table = TransferTable::new(&parse_transfers(["80-10.0.0.30:8080"]).unwrap());
        let intake = Intake {
            transfers: &table,
            pool_is_v4: None,
            stop_at: None,
        };
        let mut bytes = frame("192.0.2.1:4000", "10.0.0.20:80", b"GET");
        bytes.extend_from_slice(&[0xee; 9]);
        let segment = intake.segment(&captured(&bytes, 5)).unwrap();
        assert_eq!(segment.payload, b"GET");
        assert_eq!(segment.payload_len, 3);
        assert_eq!(segment.seq, SeqNumber(u32::MAX - 1));
        assert!(segment.options.timestamps.is_some());

        let whole = frame("192.0.2.1:4000", "10.0.0.20:80", &[7; 500]);
        for cut in 0..whole.len() {
            let meta = CaptureMeta {
                frame_len: whole.len() as u32,
                ..CaptureMeta::default()
            };
            match intake.segment(&Captured {
                bytes: &whole[..cut],
                meta,
            }) {
                Ok(s) => {
                    assert_eq!(s.payload_len, 500, "cut at {cut}");
                    assert_eq!(s.payload.len(), cut.saturating_sub(66), "cut at {cut}");
                }
                Err(e) => assert_eq!(e, Rejected::Undecodable(DecodeError::Truncated), "{cut}"),
            }
        }
    }
}
