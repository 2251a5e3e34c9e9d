//! UDP beside the sessions of a worker.
//!
//! ```text
//!  frame that is not TCP ─▶ Datagrams::take ─decode, transfer─▶ session::UdpReplay ─▶ Sender::send_datagram
//! ```

use super::intake::Rejected;
use super::sender::Sender;
use crate::transfers::{Lookup, TransferTable};
use common::flow::{Captured, ClientDatagram, Nanos, flow_hash, owner};
use common::packet::{Endpoint, decode_udp_frame};
use session::{UdpConfig, UdpReplay, UdpTotals};
use std::sync::Arc;

/// What a worker needs to replay datagrams.
pub struct UdpParts {
    /// The UDP part of the transfer list.
    pub transfers: Arc<TransferTable>,
    /// Settings.
    pub config: UdpConfig,
}

/// The UDP side of one worker.
pub struct Datagrams {
    transfers: Arc<TransferTable>,
    replay: UdpReplay,
}

impl Datagrams {
    /// From its parts.
    pub fn new(parts: UdpParts) -> Self {
        Self {
            transfers: parts.transfers,
            replay: UdpReplay::new(parts.config),
        }
    }

    /// Decodes a frame; the number is that of the worker that owns its client.
    pub fn decode<'p>(
        &self,
        frame: &Captured<'p>,
        workers: u32,
    ) -> Result<(u32, ClientDatagram<'p>), Rejected> {
        let datagram = datagram(&self.transfers, frame)?;
        Ok((owner(flow_hash(datagram.client), workers), datagram))
    }

    /// Replays a datagram of this worker's.
    pub fn replay(&mut self, now: Nanos, datagram: &ClientDatagram<'_>, sender: &mut Sender) {
        self.replay.captured(now, datagram, sender);
    }

    /// Ends idle flows. Once per loop.
    pub fn advance(&mut self, now: Nanos) {
        self.replay.advance(now);
    }

    /// The books.
    pub fn totals(&self) -> UdpTotals {
        self.replay.totals()
    }
}

fn datagram<'p>(
    transfers: &TransferTable,
    frame: &Captured<'p>,
) -> Result<ClientDatagram<'p>, Rejected> {
    let bytes = frame.bytes;
    let packet = decode_udp_frame(bytes).map_err(Rejected::Undecodable)?;
    let online = Endpoint::new(packet.ip.dst, packet.udp.dport);
    let target = match transfers.lookup(online) {
        // One: the command line takes no more.
        Lookup::Targets([target, ..]) => *target,
        Lookup::ToTarget => return Err(Rejected::ToTarget),
        Lookup::Targets([]) | Lookup::Miss => return Err(Rejected::NoTransfer),
    };
    let frame_len = (frame.meta.frame_len as usize).max(bytes.len());
    let payload_len = packet.payload_len(frame_len);
    let start = packet.udp.payload.min(bytes.len());
    // The frame may be padded behind the datagram, or cut within it.
    let end = start.saturating_add(payload_len).min(bytes.len());
    Ok(ClientDatagram {
        client: Endpoint::new(packet.ip.src, packet.udp.sport),
        online,
        target,
        payload: bytes.get(start..end).unwrap_or_default(),
        payload_len: payload_len as u32,
        gso_size: frame.meta.gso_size,
        at: frame.meta.at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_both;
    use common::flow::CaptureMeta;
    use common::packet::{DecodeError, FrameAddresses, UdpFrame, build_udp_frame};

    fn at(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    fn frame(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let frame = UdpFrame {
            src: at(src),
            dst: at(dst),
            payload,
            ip_id: 1,
        };
        let len = build_udp_frame(&mut bytes, FrameAddresses::default(), &frame).unwrap();
        bytes.truncate(len);
        bytes
    }

    fn decoded(bytes: &[u8], frame_len: usize) -> Result<(Endpoint, Vec<u8>, u32), Rejected> {
        let list =
            "udp:53-10.0.0.30:5353,udp:[2001:db8::1]:53-[2001:db8::2]:53,udp:5353-10.0.0.30:5353";
        let table = TransferTable::new(&parse_both([list]).unwrap().udp);
        let meta = CaptureMeta {
            frame_len: frame_len as u32,
            ..CaptureMeta::default()
        };
        datagram(&table, &Captured { bytes, meta })
            .map(|d| (d.target, d.payload.to_vec(), d.payload_len))
    }

    #[test]
    fn what_is_taken_and_what_is_not() {
        let client = "192.0.2.1:4000";
        let of = |bytes: &[u8]| decoded(bytes, bytes.len()).map(|d| d.0);
        assert_eq!(
            of(&frame(client, "10.0.0.20:53", b"q")),
            Ok(at("10.0.0.30:5353"))
        );
        assert_eq!(
            of(&frame("[2001:db8::9]:1", "[2001:db8::1]:53", b"q")),
            Ok(at("[2001:db8::2]:53"))
        );
        for (dst, why) in [
            ("10.0.0.20:54", Rejected::NoTransfer),
            // Covered by the last transfer.
            ("10.0.0.30:5353", Rejected::ToTarget),
        ] {
            assert_eq!(of(&frame(client, dst, b"q")), Err(why), "{dst}");
        }
        assert_eq!(of(&[0; 20]), Err(Rejected::Undecodable(DecodeError::NotIp)));
    }

    #[test]
    fn padding_is_no_payload_and_cut_captures_are_known() {
        let mut padded = frame("192.0.2.1:4000", "10.0.0.20:53", b"query");
        padded.resize(60, 0xee);
        assert_eq!(decoded(&padded, 60).unwrap().1, b"query");
        let whole = frame("192.0.2.1:4000", "10.0.0.20:53", &[7; 300]);
        for cut in 0..whole.len() {
            match decoded(&whole[..cut], whole.len()) {
                Ok((_, payload, len)) => {
                    assert_eq!((payload.len(), len), (cut - 42, 300));
                }
                Err(e) => {
                    assert_eq!(e, Rejected::Undecodable(DecodeError::Truncated), "{cut}");
                    assert!(cut < 42);
                }
            }
        }
    }
}
