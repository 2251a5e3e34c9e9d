//! From captured frames to client segments, and to the worker that owns them.
//!
//! ```text
//!  Captured ─decode, out of its tunnels─▶ transfer lookup ─▶ selection ─▶ owner?
//!       mine    ─▶ ClientSegment, one for each target ─▶ engine
//!       other's ─▶ hand-over ring, the frame as it is
//! ```

use crate::selection::{Selection, Unselected};
use crate::transfers::{Lookup, TransferTable};
use common::abi::DecapConfig;
use common::flow::{Captured, ClientSegment, Nanos};
use common::packet::{
    DecapError, Decapsulated, DecodeError, Endpoint, Position, TUNNEL_KINDS, TcpFlags, TcpOptions,
    TunnelKind, decapsulate, decode_frame,
};

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
    /// In a tunnel that is not opened, in none where only tunnels are taken, or in too many.
    pub other_tunnel: u64,
    /// Taken out of tunnels, by the number of the tunnel's kind; a packet counts for each of its tunnels.
    pub tunnels: [u64; TUNNEL_KINDS + 1],
    /// Shorter than the packet they hold: the mirror, or a capture file, cut them.
    pub cut: u64,
    /// In the transfer list, but to a target: our own output, seen again.
    pub to_target: u64,
    /// To no address of the transfer list.
    pub no_transfer: u64,
    /// The client's address family is not the target's, and no `-c` gives it another one.
    pub other_family: u64,
    /// Another worker's frame that its ring had no room for.
    pub handover_full: u64,
    /// SYNs of clients that are denied, where the kernel has not left them out.
    pub denied: u64,
    /// SYNs of other shards, likewise.
    pub other_shard: u64,
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
        self.other_tunnel += other.other_tunnel;
        for (a, b) in self.tunnels.iter_mut().zip(other.tunnels) {
            *a += b;
        }
        self.cut += other.cut;
        self.to_target += other.to_target;
        self.no_transfer += other.no_transfer;
        self.other_family += other.other_family;
        self.handover_full += other.handover_full;
        self.denied += other.denied;
        self.other_shard += other.other_shard;
    }

    /// Counts what is not passed on.
    pub fn leave_out(&mut self, why: Rejected) {
        match why {
            Rejected::AfterEnd => self.after_end += 1,
            Rejected::Undecodable(error) => self.undecodable(error),
            Rejected::OtherTunnel => self.other_tunnel += 1,
            Rejected::ToTarget => self.to_target += 1,
            Rejected::NoTransfer => self.no_transfer += 1,
            Rejected::OtherFamily => self.other_family += 1,
            Rejected::Unselected { opens: false, .. } => {}
            Rejected::Unselected {
                why: Unselected::Denied,
                ..
            } => self.denied += 1,
            Rejected::Unselected {
                why: Unselected::OtherShard,
                ..
            } => self.other_shard += 1,
        }
    }

    /// Counts how a segment came.
    #[inline]
    pub fn taken(&mut self, taken: &Taken<'_, '_>) {
        self.came_in(taken.tunnels, taken.cut);
    }

    /// Counts kinds of tunnels (bit n for the kind with number n), and whether bytes are missing.
    #[inline]
    pub fn came_in(&mut self, tunnels: u8, cut: bool) {
        self.cut += u64::from(cut);
        if tunnels == 0 {
            return;
        }
        for (number, count) in self.tunnels.iter_mut().enumerate() {
            *count += u64::from(tunnels >> number & 1);
        }
    }

    /// Packets out of tunnels of a kind.
    pub fn out_of(&self, kind: TunnelKind) -> u64 {
        self.tunnels.get(kind as usize).copied().unwrap_or(0)
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
    /// Not in a tunnel that is opened.
    OtherTunnel,
    /// On its way to a target.
    ToTarget,
    /// Not in the transfer list.
    NoTransfer,
    /// Two address families.
    OtherFamily,
    /// Of a session that is not replayed; it begins here if `opens`.
    Unselected {
        /// Why.
        why: Unselected,
        /// It is a SYN.
        opens: bool,
    },
}

impl From<DecapError> for Rejected {
    fn from(error: DecapError) -> Self {
        match error {
            DecapError::Decode(error) => Self::Undecodable(error),
            DecapError::NotTaken | DecapError::TooDeep => Self::OtherTunnel,
        }
    }
}

/// A packet and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'t, 'p> {
    /// Towards the first target.
    pub segment: ClientSegment<'p>,
    targets: &'t [Endpoint],
    /// Where the packet begins in the frame, behind its tunnels.
    pub position: Position,
    /// Offset of its ports in the frame, in bytes.
    pub ports_at: usize,
    /// Kinds of the tunnels it came in: bit n for the kind with number n.
    pub tunnels: u8,
    /// Bytes are missing at its end.
    pub cut: bool,
}

/// Of a frame that is taken, what does not borrow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who sent it.
    pub client: Endpoint,
    /// Where the packet begins in the frame, behind its tunnels.
    pub position: Position,
    /// Offset of its ports in the frame, in bytes.
    pub ports_at: usize,
}

impl<'p> Taken<'_, 'p> {
    /// Client and offsets.
    pub const fn place(&self) -> Place {
        Place {
            client: self.segment.client,
            position: self.position,
            ports_at: self.ports_at,
        }
    }

    /// The packet towards each target that has its address family.
    pub fn each(&self) -> impl Iterator<Item = ClientSegment<'p>> {
        let first = self.segment;
        let family = first.target.addr.is_v4();
        (0u16..)
            .zip(self.targets)
            .filter(move |(_, target)| target.addr.is_v4() == family)
            .map(move |(lane, target)| ClientSegment {
                target: *target,
                lane,
                ..first
            })
    }
}

/// Rules that turn frames into segments.
#[derive(Clone, Copy, Debug)]
pub struct Intake<'a> {
    /// The transfer list.
    pub transfers: &'a TransferTable,
    /// Which tunnels are opened.
    pub decap: &'a DecapConfig,
    /// Family of the addresses that stand in for clients', if there are such.
    pub pool_is_v4: Option<bool>,
    /// Frames captured later are not part of the run.
    pub stop_at: Option<Nanos>,
    /// Which sessions are replayed, if the kernel has not chosen them.
    pub selection: Option<&'a Selection>,
}

impl<'a> Intake<'a> {
    /// Rules for what tap and mirror bring, which choose sessions in the kernel.
    pub const fn live(
        transfers: &'a TransferTable,
        decap: &'a DecapConfig,
        pool_is_v4: Option<bool>,
        stop_at: Option<Nanos>,
    ) -> Self {
        Self {
            transfers,
            decap,
            pool_is_v4,
            stop_at,
            selection: None,
        }
    }

    /// Decodes one frame.
    pub fn take<'p>(&self, frame: &Captured<'p>) -> Result<Taken<'a, 'p>, Rejected> {
        if self.stop_at.is_some_and(|end| frame.meta.at > end) {
            return Err(Rejected::AfterEnd);
        }
        let bytes = frame.bytes;
        let opened = self.open(bytes)?;
        let packet = &opened.packet;
        let online = Endpoint::new(packet.ip.dst, packet.tcp.dport);
        let targets = match self.transfers.lookup(online) {
            Lookup::Targets(targets) => targets,
            Lookup::ToTarget => return Err(Rejected::ToTarget),
            Lookup::Miss => return Err(Rejected::NoTransfer),
        };
        let client = Endpoint::new(packet.ip.src, packet.tcp.sport);
        if let Some(why) = self.selection.and_then(|s| s.refuses(client)) {
            let flags = packet.tcp.flags;
            let opens = flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK);
            return Err(Rejected::Unselected { why, opens });
        }
        let is_v4 = self.pool_is_v4.unwrap_or(client.addr.is_v4());
        let fitting = targets.iter().find(|target| target.addr.is_v4() == is_v4);
        let Some(&target) = fitting else {
            return Err(Rejected::OtherFamily);
        };
        let frame_len = (frame.meta.frame_len as usize).max(bytes.len());
        let payload_len = packet.payload_len(frame_len);
        let start = packet.tcp.payload.min(bytes.len());
        // Short frames are padded to 60 bytes on the wire; the IP length says where data ends.
        let end = start.saturating_add(payload_len).min(bytes.len());
        let options = bytes
            .get(packet.ip.l4 + 20..start)
            .map_or_else(TcpOptions::default, TcpOptions::parse);
        let payload = bytes.get(start..end).unwrap_or_default();
        let segment = ClientSegment {
            client,
            online,
            target,
            lane: 0,
            seq: packet.tcp.seq,
            ack: packet.tcp.ack,
            flags: packet.tcp.flags,
            window: packet.tcp.window,
            options,
            payload,
            payload_len: payload_len as u32,
            gso_size: frame.meta.gso_size,
            at: frame.meta.at,
        };
        Ok(Taken {
            segment,
            targets,
            position: opened.position,
            ports_at: packet.ip.l4,
            tunnels: opened.kinds,
            cut: opened.cut || payload_len > payload.len(),
        })
    }

    /// The packet of a frame.
    #[inline]
    fn open(&self, bytes: &[u8]) -> Result<Decapsulated, Rejected> {
        if self.decap.plain() {
            match decode_frame(bytes) {
                Ok(packet) => return Ok(Decapsulated::plain(packet)),
                Err(DecodeError::NotTcp | DecodeError::NotIp) if self.decap.tunnels() => {}
                Err(error) => return Err(Rejected::Undecodable(error)),
            }
        }
        self.unwrap(bytes)
    }

    /// Apart from the way of plain frames, which it would slow.
    #[inline(never)]
    fn unwrap(&self, bytes: &[u8]) -> Result<Decapsulated, Rejected> {
        decapsulate(bytes, self.decap).map_err(Rejected::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;
    use common::flow::{Block, CaptureMeta, Shard, flow_hash, owner};
    use common::packet::{FrameAddresses, SeqNumber, TcpFrame, build_tcp_frame};

    fn at(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    fn frame(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
        frame_with(src, dst, TcpFlags::ACK.with(TcpFlags::PSH), payload)
    }

    fn frame_with(src: &str, dst: &str, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let tcp = TcpFrame {
            src: at(src),
            dst: at(dst),
            seq: SeqNumber(u32::MAX - 1),
            ack: SeqNumber(7),
            flags,
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
            decap: &DecapConfig::AUTO,
            pool_is_v4: None,
            stop_at: Some(Nanos(1000)),
            selection: None,
        };
        let client = "192.0.2.1:4000";
        let of = |bytes: &[u8], at| intake.take(&captured(bytes, at)).map(|t| t.segment.target);
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
            (frame(client, "10.0.0.31:80", b"x"), 1, Rejected::ToTarget),
            (
                frame(client, "10.0.0.30:8080", b"x"),
                1,
                Rejected::NoTransfer,
            ),
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
    fn a_packet_goes_to_each_target_and_only_if_its_session_is_selected() {
        let list = "80-10.0.0.30:8080,80-[2001:db8::2]:80,80-10.0.0.31:8080";
        let table = TransferTable::new(&parse_transfers([list]).unwrap());
        let client = at("192.0.2.1:4000");
        let deny = Block::new(client.addr, 24).unwrap();
        let chosen = Selection::new(Shard::WHOLE, &[]);
        let denied = Selection::new(Shard::WHOLE, &[deny]);
        let bytes = frame("192.0.2.1:4000", "10.0.0.20:80", b"x");
        let take = |selection| {
            let intake = Intake {
                transfers: &table,
                decap: &DecapConfig::AUTO,
                pool_is_v4: None,
                stop_at: None,
                selection: Some(selection),
            };
            intake.take(&captured(&bytes, 1))
        };
        let lanes: Vec<_> = take(&chosen)
            .unwrap()
            .each()
            .map(|s| (s.lane, s.target, s.client))
            .collect();
        assert_eq!(
            lanes,
            [
                (0, at("10.0.0.30:8080"), client),
                (2, at("10.0.0.31:8080"), client)
            ]
        );
        let why = Unselected::Denied;
        assert_eq!(
            take(&denied).unwrap_err(),
            Rejected::Unselected { why, opens: false }
        );
    }

    #[test]
    fn shards_share_out_the_sessions_and_denied_clients_are_in_none() {
        const SESSIONS: u64 = 60;
        const WORKERS: u32 = 2;
        let table = TransferTable::new(&parse_transfers(["80-10.0.0.30:8080"]).unwrap());
        let denied = Block::new(at("192.0.2.1:1").addr, 32).unwrap();
        for deny in [vec![], vec![denied]] {
            let (mut owned, mut left) = (Vec::new(), Vec::new());
            for index in 0..2 {
                let shard = Shard::new(index, 2).unwrap();
                let selection = Selection::new(shard, &deny);
                let intake = Intake {
                    transfers: &table,
                    decap: &DecapConfig::NONE,
                    pool_is_v4: None,
                    stop_at: None,
                    selection: Some(&selection),
                };
                let mut counters = IntakeCounters::default();
                let mut by_worker = [0u64; WORKERS as usize];
                for n in 0..SESSIONS {
                    let client = format!("192.0.2.1:{}", 44_000 + n);
                    // Each packet of a session gets the same answer, and its SYN alone is counted.
                    let mut takes = [TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN].map(|flags| {
                        let bytes = frame_with(&client, "10.0.0.20:80", flags, b"");
                        let taken = intake.take(&captured(&bytes, 1)).map(|t| t.place().client);
                        taken.inspect_err(|why| counters.leave_out(*why)).is_ok()
                    });
                    takes.sort_unstable();
                    assert_eq!(takes[0], takes[2], "{client}");
                    let hash = flow_hash(at(&client));
                    assert_eq!(takes[0], shard.holds(hash) && deny.is_empty(), "{client}");
                    by_worker[owner(hash, WORKERS) as usize] += u64::from(takes[0]);
                }
                let count: u64 = by_worker.iter().sum();
                assert!(
                    count == 0 || by_worker.iter().all(|n| *n > 5),
                    "{by_worker:?}"
                );
                owned.push(count);
                left.push((counters.other_shard, counters.denied));
            }
            if deny.is_empty() {
                assert_eq!(left, [(owned[1], 0), (owned[0], 0)]);
                assert_eq!(owned[0] + owned[1], SESSIONS);
            } else {
                assert_eq!(left, [(0, SESSIONS); 2]);
            }
        }
    }

    #[test]
    fn padding_is_no_payload_and_cut_captures_are_known() {
        let table = TransferTable::new(&parse_transfers(["80-10.0.0.30:8080"]).unwrap());
        let intake = Intake {
            transfers: &table,
            decap: &DecapConfig::AUTO,
            pool_is_v4: None,
            stop_at: None,
            selection: None,
        };
        let mut bytes = frame("192.0.2.1:4000", "10.0.0.20:80", b"GET");
        bytes.extend_from_slice(&[0xee; 9]);
        let segment = intake.take(&captured(&bytes, 5)).unwrap().segment;
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
            match intake.take(&Captured {
                bytes: &whole[..cut],
                meta,
            }) {
                Ok(taken) => {
                    let s = taken.segment;
                    assert_eq!(taken.cut, cut < whole.len());
                    assert_eq!(s.payload_len, 500, "cut at {cut}");
                    assert_eq!(s.payload.len(), cut.saturating_sub(66), "cut at {cut}");
                }
                Err(e) => assert_eq!(e, Rejected::Undecodable(DecodeError::Truncated), "{cut}"),
            }
        }
    }

    /// An IP packet in GRE in IPv4.
    fn in_gre(frame: &[u8]) -> Vec<u8> {
        let len = (frame.len() - 14 + 24) as u16;
        let mut out = frame[..14].to_vec();
        out.extend([0x45, 0]);
        out.extend(len.to_be_bytes());
        out.extend([
            0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 0, 8, 0,
        ]);
        out.extend(&frame[14..]);
        out
    }

    #[test]
    fn packets_come_out_of_tunnels_that_are_opened() {
        let table = TransferTable::new(&parse_transfers(["80-10.0.0.30:8080"]).unwrap());
        let only_gre = crate::cli::parse_decap("gre@192.0.2.1").unwrap();
        let plain = frame("192.0.2.1:4000", "10.0.0.20:80", b"GET");
        let tunnelled = in_gre(&plain);
        let of = |decap: &DecapConfig, bytes: &[u8]| {
            let intake = Intake {
                transfers: &table,
                decap,
                pool_is_v4: None,
                stop_at: None,
                selection: None,
            };
            let taken = intake.take(&captured(bytes, 1))?;
            assert_eq!(
                (taken.segment.payload, taken.segment.payload_len),
                (&b"GET"[..], 3)
            );
            let mut counters = IntakeCounters::default();
            counters.taken(&taken);
            assert_eq!(counters.cut, 0);
            Ok(counters.out_of(TunnelKind::Gre))
        };
        assert_eq!(of(&DecapConfig::AUTO, &plain), Ok(0));
        assert_eq!(of(&DecapConfig::AUTO, &tunnelled), Ok(1));
        assert_eq!(of(&DecapConfig::AUTO, &in_gre(&tunnelled)), Ok(1));
        assert_eq!(of(&only_gre, &tunnelled), Ok(1));
        assert_eq!(of(&only_gre, &plain), Err(Rejected::OtherTunnel));
        assert_eq!(of(&DecapConfig::NONE, &plain), Ok(0));
        let not_tcp = Rejected::Undecodable(DecodeError::NotTcp);
        assert_eq!(of(&DecapConfig::NONE, &tunnelled), Err(not_tcp));
    }
}
