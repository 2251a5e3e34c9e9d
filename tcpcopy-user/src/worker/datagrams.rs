//! UDP beside the sessions of a worker.
//!
//! ```text
//!  frame that is not TCP ─▶ DatagramRules::take ─ open, decode, transfer ─▶ session::UdpReplay ─▶ Sender::send_datagram
//! ```
//! The rules are the reader's of files too.

use super::intake::{Place, Rejected};
use super::sender::Sender;
use crate::transfers::{Lookup, TransferTable};
use common::abi::DecapConfig;
use common::flow::{Captured, ClientDatagram, Nanos, flow_hash, owner};
use common::packet::{
    Bytes, Decapsulated, Endpoint, UdpPacket, decapsulate_datagram, decode_udp_frame,
};
use session::{UdpConfig, UdpReplay, UdpTotals};
use std::sync::Arc;

/// What a worker needs to replay datagrams.
pub struct UdpParts {
    /// The UDP part of the transfer list.
    pub transfers: Arc<TransferTable>,
    /// Settings.
    pub config: UdpConfig,
}

/// Rules that turn frames into datagrams.
#[derive(Clone, Copy, Debug)]
pub struct DatagramRules<'a> {
    /// The UDP part of the transfer list.
    pub transfers: &'a TransferTable,
    /// Which tunnels are opened.
    pub decap: &'a DecapConfig,
}

/// A datagram and where it was.
#[derive(Clone, Copy, Debug)]
pub struct TakenDatagram<'p> {
    /// The datagram.
    pub datagram: ClientDatagram<'p>,
    /// Client and offsets in the frame.
    pub place: Place,
    /// Kinds of the tunnels it came in: bit n for the kind with number n.
    pub tunnels: u8,
    /// Bytes are missing at its end.
    pub cut: bool,
}

/// The UDP side of one worker.
pub struct Datagrams {
    transfers: Arc<TransferTable>,
    decap: DecapConfig,
    replay: UdpReplay,
}

impl Datagrams {
    /// From its parts; `decap` says which tunnels are opened.
    pub fn new(parts: UdpParts, decap: &DecapConfig) -> Self {
        Self {
            transfers: parts.transfers,
            decap: *decap,
            replay: UdpReplay::new(parts.config),
        }
    }

    /// Decodes a frame; the number is that of the worker that owns its client.
    pub fn decode<'p>(
        &self,
        frame: &Captured<'p>,
        workers: u32,
    ) -> Result<(u32, TakenDatagram<'p>), Rejected> {
        let rules = DatagramRules {
            transfers: &self.transfers,
            decap: &self.decap,
        };
        let taken = rules.take(frame)?;
        Ok((owner(flow_hash(taken.datagram.client), workers), taken))
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

impl DatagramRules<'_> {
    /// Decodes one frame.
    pub fn take<'p>(&self, frame: &Captured<'p>) -> Result<TakenDatagram<'p>, Rejected> {
        let bytes = frame.bytes;
        let opened = self.open(bytes)?;
        let packet = &opened.packet;
        let online = Endpoint::new(packet.ip.dst, packet.udp.dport);
        let target = match self.transfers.lookup(online) {
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
        let payload = bytes.get(start..end).unwrap_or_default();
        let client = Endpoint::new(packet.ip.src, packet.udp.sport);
        Ok(TakenDatagram {
            datagram: ClientDatagram {
                client,
                online,
                target,
                payload,
                payload_len: payload_len as u32,
                packet_id: identification(bytes, packet),
                gso_size: frame.meta.gso_size,
                at: frame.meta.at,
            },
            place: Place {
                client,
                position: opened.position,
                ports_at: packet.ip.l4,
            },
            tunnels: opened.kinds,
            cut: opened.cut || payload_len > payload.len(),
        })
    }

    /// The datagram of a frame.
    fn open(&self, bytes: &[u8]) -> Result<Decapsulated<UdpPacket>, Rejected> {
        if self.decap.tunnels() {
            return decapsulate_datagram(bytes, self.decap).map_err(Rejected::from);
        }
        let packet = decode_udp_frame(bytes).map_err(Rejected::Undecodable)?;
        Ok(Decapsulated::plain(packet))
    }
}

/// See [`ClientDatagram::packet_id`].
fn identification(bytes: &[u8], packet: &UdpPacket) -> u16 {
    let field = if packet.ip.src.is_v4() {
        bytes.be16(packet.ip.l3 + 4)
    } else {
        None
    };
    field.unwrap_or(0)
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
        let rules = DatagramRules {
            transfers: &table,
            decap: &DecapConfig::NONE,
        };
        let taken = rules.take(&Captured { bytes, meta })?;
        let d = taken.datagram;
        assert_eq!(taken.cut, d.payload.len() < d.payload_len as usize);
        Ok((d.target, d.payload.to_vec(), d.payload_len))
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
