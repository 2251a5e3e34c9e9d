//! The format between our own programs: both address families, routes that are given back.
//!
//! It is negotiated inside the C format, which a C peer of either side never notices:
//!
//! ```text
//!  tcpcopy ── C hello, its free bytes 8..14 = OFFER ─────────────▶ intercept     C: ignores them
//!  tcpcopy ── C records (IPv4 sessions need not wait) ───────────▶
//!  tcpcopy ◀─ ACK (16 bytes), then native frames only ──────────── intercept     C: never answers
//!  tcpcopy ── C record of type SWITCH, then ClientMessages only ─▶ intercept
//! ```
//! tcpcopy sends [`SWITCH`] only after the ACK, so a C intercept never sees it. The ACK begins with a byte
//! that no C stream begins with (counts up to 16, or 0x45 to 0x4f without counts). Each direction changes at
//! a place of its own, named in its own byte stream: nobody has to wait for the other.
//!
//! The last bytes of offer and ACK are flags ([`offer_flags`], [`ack_flags`]): both sides send zero for the others
//! and ignore what they do not know. With a key on both sides nothing follows in clear text: tcpcopy waits for the
//! ACK, then both prove the key to each other, then all of this format goes on inside sealed records
//! (crate `channel-crypto`).

use super::compat::{self, BadCount, CLIENT_RECORD_BYTES, ClientRecord, response_options};
use super::partial::Partial;
use crate::flow::ResponseHeader;
use crate::packet::{Addr, Endpoint, SeqNumber, TcpFlags, TcpOptions};
use bytemuck::{Pod, Zeroable};

/// Version of this format.
const VERSION: u8 = 1;
/// What tcpcopy puts into the free bytes of its hello: a mark, the version, flags.
const OFFER: [u8; 6] = [b'T', b'c', b'p', VERSION, 0, 0];
/// Place of the flags in the offer.
const OFFER_FLAGS_AT: usize = 5;
/// First two bytes of the acknowledgement.
const ACK_MARK: [u8; 2] = [0xac, 0x4e];
/// Size of the acknowledgement.
pub const ACK_BYTES: usize = 16;
/// Place of the flags in the acknowledgement.
const ACK_FLAGS_AT: usize = ACK_BYTES - 1;
/// Size of the number in it that belongs to this connection alone; zero without a key.
pub const CHALLENGE_BYTES: usize = 12;
/// Type of the C record behind which tcpcopy speaks this format.
pub const SWITCH: u16 = 0x4e54;
/// Size of a [`ClientMessage`].
pub const CLIENT_MESSAGE_BYTES: usize = size_of::<ClientMessage>();
/// Size of a [`HeaderRecord`].
pub const HEADER_RECORD_BYTES: usize = size_of::<HeaderRecord>();
/// Most records in a frame; as in the C format, one batch of 64 makes four.
pub const MAX_RECORDS: usize = compat::MAX_RECORDS;
/// Size of what precedes the records of a frame.
pub const FRAME_HEAD_BYTES: usize = 4;
/// Largest frame.
pub const MAX_FRAME_BYTES: usize = FRAME_HEAD_BYTES + MAX_RECORDS * HEADER_RECORD_BYTES;
/// Kind of a frame of response headers.
const KIND_HEADERS: u16 = 1;
/// Kind of a frame of confirmed routes: records of the same size, of which only the endpoints are not zero.
const KIND_CONFIRMED: u16 = 2;
/// Kind of a frame with one [`Pong`], which is padded to the size of the other records.
const KIND_PONG: u16 = 3;
const TYPE_ADD: u16 = 1;
const TYPE_DEL: u16 = 2;
const TYPE_UDP_TARGET: u16 = 3;
const TYPE_PING: u16 = 4;
const OPTION_BYTES: usize = 24;

/// What tcpcopy says behind [`SWITCH`]. Numbers are big-endian, addresses IPv6 or IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ClientMessage {
    kind: [u8; 2],
    client_port: [u8; 2],
    target_port: [u8; 2],
    reserved: [u8; 2],
    client: [u8; 16],
    target: [u8; 16],
}

const _: () = assert!(size_of::<ClientMessage>() == 40);

impl ClientMessage {
    /// Responses of `target` to `client` shall come to this connection.
    pub const fn add(client: Endpoint, target: Endpoint) -> Self {
        Self::new(TYPE_ADD, client, target)
    }

    /// The route is not needed any more.
    pub const fn del(client: Endpoint, target: Endpoint) -> Self {
        Self::new(TYPE_DEL, client, target)
    }

    /// Datagrams are replayed to this target; its answers are for nobody. The client is all zeros.
    pub const fn udp_target(target: Endpoint) -> Self {
        Self::new(TYPE_UDP_TARGET, Endpoint::new(Addr([0; 16]), 0), target)
    }

    /// Asks for a [`Pong`] with this token. It takes the first bytes of the client's address; the rest is zero.
    pub fn ping(token: u64) -> Self {
        let mut addr = [0; 16];
        addr[..8].copy_from_slice(&token.to_be_bytes());
        let none = Endpoint::new(Addr([0; 16]), 0);
        Self::new(TYPE_PING, Endpoint::new(Addr(addr), 0), none)
    }

    const fn new(kind: u16, client: Endpoint, target: Endpoint) -> Self {
        Self {
            kind: kind.to_be_bytes(),
            client_port: client.port.to_be_bytes(),
            target_port: target.port.to_be_bytes(),
            reserved: [0; 2],
            client: client.addr.0,
            target: target.addr.0,
        }
    }

    /// As it goes on the wire.
    pub fn to_bytes(self) -> [u8; CLIENT_MESSAGE_BYTES] {
        let mut bytes = [0; CLIENT_MESSAGE_BYTES];
        bytes.copy_from_slice(bytemuck::bytes_of(&self));
        bytes
    }

    /// Reads a message. Any bytes are one; a kind that is not known is to be ignored.
    pub fn decode(bytes: [u8; CLIENT_MESSAGE_BYTES]) -> ClientRecord {
        let m: Self = bytemuck::pod_read_unaligned(&bytes);
        let client = Endpoint::new(Addr(m.client), u16::from_be_bytes(m.client_port));
        let target = Endpoint::new(Addr(m.target), u16::from_be_bytes(m.target_port));
        match u16::from_be_bytes(m.kind) {
            TYPE_ADD => ClientRecord::Add { client, target },
            TYPE_DEL => ClientRecord::Del { client, target },
            TYPE_UDP_TARGET => ClientRecord::UdpTarget { target },
            TYPE_PING => {
                let [a, b, c, d, e, f, g, h, ..] = m.client;
                ClientRecord::Ping {
                    token: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                }
            }
            kind => ClientRecord::Unknown { kind },
        }
    }
}

/// One response. Numbers are big-endian, addresses IPv6 or IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HeaderRecord {
    client: [u8; 16],
    target: [u8; 16],
    client_port: [u8; 2],
    target_port: [u8; 2],
    seq: [u8; 4],
    ack: [u8; 4],
    payload_len: [u8; 4],
    window: [u8; 2],
    flags: u8,
    options_len: u8,
    options: [u8; OPTION_BYTES],
}

const _: () = assert!(size_of::<HeaderRecord>() == 76);

impl HeaderRecord {
    /// Of a response; options beyond 24 bytes are cut as in the C format.
    pub fn new(h: &ResponseHeader) -> Self {
        let (area, len) = response_options(h);
        let mut options = [0; OPTION_BYTES];
        options.copy_from_slice(&area[..OPTION_BYTES]);
        Self {
            client: h.client.addr.0,
            target: h.target.addr.0,
            client_port: h.client.port.to_be_bytes(),
            target_port: h.target.port.to_be_bytes(),
            seq: h.seq.0.to_be_bytes(),
            ack: h.ack.0.to_be_bytes(),
            payload_len: h.payload_len.to_be_bytes(),
            window: h.window.to_be_bytes(),
            flags: h.flags.0,
            options_len: len.min(OPTION_BYTES) as u8,
            options,
        }
    }

    /// Of a route whose responses are taken from now on.
    pub fn confirmed(client: Endpoint, target: Endpoint) -> Self {
        Self {
            client: client.addr.0,
            target: target.addr.0,
            client_port: client.port.to_be_bytes(),
            target_port: target.port.to_be_bytes(),
            ..Self::zeroed()
        }
    }

    /// As it goes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_RECORD_BYTES] {
        let mut bytes = [0; HEADER_RECORD_BYTES];
        bytes.copy_from_slice(bytemuck::bytes_of(&self));
        bytes
    }

    /// Reads a record; any bytes are one.
    pub fn decode(bytes: [u8; HEADER_RECORD_BYTES]) -> ResponseHeader {
        let r: Self = bytemuck::pod_read_unaligned(&bytes);
        let used = usize::from(r.options_len).min(OPTION_BYTES);
        let (options, sack) = TcpOptions::parse_with_sack(&r.options[..used]);
        ResponseHeader {
            target: Endpoint::new(Addr(r.target), u16::from_be_bytes(r.target_port)),
            client: Endpoint::new(Addr(r.client), u16::from_be_bytes(r.client_port)),
            seq: SeqNumber(u32::from_be_bytes(r.seq)),
            ack: SeqNumber(u32::from_be_bytes(r.ack)),
            flags: TcpFlags(r.flags & 0x3f),
            window: u16::from_be_bytes(r.window),
            payload_len: u32::from_be_bytes(r.payload_len),
            options,
            sack,
        }
    }
}

/// The answer to a ping: what became of this connection's responses. Numbers are big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pong {
    /// That of the ping.
    pub token: u64,
    /// Responses written to the connection.
    pub sent: u64,
    /// Responses dropped because tcpcopy did not read fast enough.
    pub dropped_full: u64,
    /// Responses that wait to be written.
    pub waiting: u64,
    /// Longest time from the kernel's capture of a response to its write since the pong before, in ns.
    pub lag_max_ns: u64,
}

impl Pong {
    /// Frame of this answer.
    pub fn to_frame(self) -> [u8; FRAME_HEAD_BYTES + HEADER_RECORD_BYTES] {
        let mut frame = [0; FRAME_HEAD_BYTES + HEADER_RECORD_BYTES];
        frame[..FRAME_HEAD_BYTES].copy_from_slice(&head(KIND_PONG, 1));
        let fields = [
            self.token,
            self.sent,
            self.dropped_full,
            self.waiting,
            self.lag_max_ns,
        ];
        let (places, _) = frame[FRAME_HEAD_BYTES..].as_chunks_mut::<8>();
        for (place, field) in places.iter_mut().zip(fields) {
            *place = field.to_be_bytes();
        }
        frame
    }

    fn decode(record: &[u8; HEADER_RECORD_BYTES]) -> Self {
        let (fields, _) = record.as_chunks::<8>();
        let field = |at: usize| fields.get(at).map_or(0, |f| u64::from_be_bytes(*f));
        Self {
            token: field(0),
            sent: field(1),
            dropped_full: field(2),
            waiting: field(3),
            lag_max_ns: field(4),
        }
    }
}

/// Bits of the offer's flags.
pub mod offer_flags {
    /// tcpcopy has a key: nothing follows the hello before intercept has proved that it has it too.
    pub const KEYED: u8 = 1 << 1;
    /// tcpcopy pings, so its silence means that it is gone.
    pub const PINGS: u8 = 1 << 2;
}

/// Bits of the acknowledgement's flags.
pub mod ack_flags {
    /// Each announcement is confirmed once responses are taken; a SYN had better wait for that.
    pub const CONFIRMS: u8 = 1;
    /// intercept has a key: messages that prove it follow, or the end of a connection whose offer had none.
    pub const KEYED: u8 = 1 << 1;
    /// intercept answers pings.
    pub const PONGS: u8 = 1 << 2;
}

/// The C hello with our offer in its free bytes, given its [`offer_flags`].
pub fn hello(flags: u8) -> [u8; CLIENT_RECORD_BYTES] {
    let mut hello = compat::hello();
    hello[8..].copy_from_slice(&OFFER);
    hello[8 + OFFER_FLAGS_AT] = flags;
    hello
}

/// The [`offer_flags`] of a hello that [`offered`].
pub fn flags_of_offer(extension: [u8; 6]) -> u8 {
    extension[OFFER_FLAGS_AT]
}

/// True if the free bytes of a hello offer this format. Flags that are not known are no obstacle.
pub fn offered(extension: [u8; 6]) -> bool {
    extension[..4] == OFFER[..4]
}

/// What intercept answers an offer with, given its [`ack_flags`].
pub fn ack(flags: u8) -> [u8; ACK_BYTES] {
    let mut ack = [0; ACK_BYTES];
    ack[..2].copy_from_slice(&ACK_MARK);
    ack[2] = VERSION;
    ack[ACK_FLAGS_AT] = flags;
    ack
}

/// The same of an intercept with a key.
pub fn keyed_ack(flags: u8, challenge: [u8; CHALLENGE_BYTES]) -> [u8; ACK_BYTES] {
    let mut ack = ack(flags | ack_flags::KEYED);
    ack[3..3 + CHALLENGE_BYTES].copy_from_slice(&challenge);
    ack
}

/// Reads an acknowledgement: its [`ack_flags`].
pub fn flags_of_ack(ack: [u8; ACK_BYTES]) -> Result<u8, BadStream> {
    let [a, b, c, d, ..] = ack;
    if [a, b] == ACK_MARK && c == VERSION {
        Ok(ack[ACK_FLAGS_AT])
    } else {
        Err(BadStream::Ack([a, b, c, d]))
    }
}

/// The C record behind which tcpcopy speaks this format.
pub fn switch() -> [u8; CLIENT_RECORD_BYTES] {
    let mut record = [0; CLIENT_RECORD_BYTES];
    record[6..8].copy_from_slice(&SWITCH.to_be_bytes());
    record
}

/// What precedes `count` records of responses.
pub fn frame_head(count: u16) -> [u8; FRAME_HEAD_BYTES] {
    head(KIND_HEADERS, count)
}

/// What precedes `count` records of confirmed routes ([`HeaderRecord::confirmed`]).
pub fn confirmed_head(count: u16) -> [u8; FRAME_HEAD_BYTES] {
    head(KIND_CONFIRMED, count)
}

fn head(kind: u16, count: u16) -> [u8; FRAME_HEAD_BYTES] {
    let ([a, b], [c, d]) = (kind.to_be_bytes(), count.to_be_bytes());
    [a, b, c, d]
}

/// Why a stream from intercept cannot be read on: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadStream {
    /// In the C format.
    Compat(BadCount),
    /// The answer to our offer is none that we know.
    Ack([u8; 4]),
    /// A frame of another kind, or with too many records.
    Frame {
        /// Its kind.
        kind: u16,
        /// Its number of records.
        count: u16,
    },
}

impl core::fmt::Display for BadStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Compat(bad) => bad.fmt(f),
            Self::Ack(got) => write!(
                f,
                "intercept answers the hello with {got:02x?}, expected ac 4e and version {VERSION}; \
                 are both programs of one version?"
            ),
            Self::Frame { kind, count } => write!(
                f,
                "frame of kind {kind} with {count} records, expected kinds {KIND_HEADERS} to {KIND_PONG} with at \
                 most {MAX_RECORDS}; are both programs of one version?"
            ),
        }
    }
}

impl core::error::Error for BadStream {}

/// One record from intercept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRecord {
    /// A response.
    Header(ResponseHeader),
    /// In place of a response, something that is no TCP header.
    NoHeader,
    /// Responses of `target` to `client` are taken from now on.
    Confirmed {
        /// Client as the target sees it.
        client: Endpoint,
        /// Target.
        target: Endpoint,
    },
    /// The answer to a ping.
    Pong(Pong),
}

/// Reads what intercept sends, in whichever format its first byte says. Bytes may arrive in pieces of any size.
#[derive(Clone, Debug)]
pub struct ServerStream(Mode);

#[derive(Clone, Debug)]
enum Mode {
    /// Nothing has come.
    Undecided,
    Compat(compat::FrameDecoder),
    Native(FrameDecoder),
}

impl Default for ServerStream {
    fn default() -> Self {
        Self(Mode::Undecided)
    }
}

impl ServerStream {
    /// Of a connection whose acknowledgement, with these [`ack_flags`], has been read by somebody else.
    pub fn native(flags: u8) -> Self {
        Self(Mode::Native(FrameDecoder {
            acknowledged: true,
            flags,
            ..FrameDecoder::default()
        }))
    }

    /// The acknowledgement has come whole.
    pub fn is_native(&self) -> bool {
        matches!(&self.0, Mode::Native(d) if d.acknowledged)
    }

    /// What a C intercept was built to send, once it has shown.
    pub fn compat_variant(&self) -> Option<compat::Variant> {
        match &self.0 {
            Mode::Compat(d) => d.variant(),
            _ => None,
        }
    }

    /// The acknowledgement has come, and says that routes are confirmed.
    pub fn confirms(&self) -> bool {
        matches!(&self.0, Mode::Native(d) if d.flags & ack_flags::CONFIRMS != 0)
    }

    /// The [`ack_flags`], once the acknowledgement has come.
    pub fn flags(&self) -> u8 {
        match &self.0 {
            Mode::Native(d) => d.flags,
            _ => 0,
        }
    }

    /// Feeds bytes and calls `each` for each record.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ServerRecord),
    ) -> Result<(), BadStream> {
        if matches!(self.0, Mode::Undecided) {
            let Some(&first) = bytes.first() else {
                return Ok(());
            };
            self.0 = if first == ACK_MARK[0] {
                Mode::Native(FrameDecoder::default())
            } else {
                Mode::Compat(compat::FrameDecoder::default())
            };
        }
        match &mut self.0 {
            Mode::Undecided => Ok(()),
            Mode::Compat(d) => d
                .feed(bytes, |r| {
                    each(
                        compat::decode_record(r)
                            .map_or(ServerRecord::NoHeader, ServerRecord::Header),
                    );
                })
                .map_err(BadStream::Compat),
            Mode::Native(d) => d.feed(bytes, each),
        }
    }
}

/// Cuts a native stream, from the acknowledgement on, into records.
#[derive(Clone, Debug, Default)]
struct FrameDecoder {
    partial: Partial<HEADER_RECORD_BYTES>,
    /// Records still to come in this frame; 0 means that a head is due.
    due: u16,
    /// Of this frame.
    kind: u16,
    acknowledged: bool,
    /// See [`ack_flags`].
    flags: u8,
}

impl FrameDecoder {
    fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(ServerRecord),
    ) -> Result<(), BadStream> {
        loop {
            let want = match (self.acknowledged, self.due) {
                (false, _) => ACK_BYTES,
                (true, 0) => FRAME_HEAD_BYTES,
                (true, _) => HEADER_RECORD_BYTES,
            };
            let Some(unit) = self.partial.take(want, &mut bytes) else {
                return Ok(());
            };
            if self.due > 0 {
                each(match self.kind {
                    KIND_CONFIRMED => {
                        let header = HeaderRecord::decode(*unit);
                        ServerRecord::Confirmed {
                            client: header.client,
                            target: header.target,
                        }
                    }
                    KIND_PONG => ServerRecord::Pong(Pong::decode(unit)),
                    _ => ServerRecord::Header(HeaderRecord::decode(*unit)),
                });
                self.due -= 1;
                continue;
            }
            if self.acknowledged {
                let [a, b, c, d, ..] = *unit;
                let (kind, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                let known = matches!(kind, KIND_HEADERS | KIND_CONFIRMED | KIND_PONG);
                if !known || usize::from(count) > MAX_RECORDS {
                    return Err(BadStream::Frame { kind, count });
                }
                (self.kind, self.due) = (kind, count);
            } else {
                let mut ack = [0; ACK_BYTES];
                ack.copy_from_slice(&unit[..ACK_BYTES]);
                self.flags = flags_of_ack(ack)?;
                self.acknowledged = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
