//! The native format, both directions.

use common::wire::compat::ClientRecord;
use common::wire::native::{
    ACK_BYTES, CLIENT_MESSAGE_BYTES, ClientMessage, HeaderRecord, ServerRecord, ServerStream, ack,
    confirmed_head,
};

/// Records of a stream that comes in pieces of `piece` bytes, and whether it was refused.
fn records(data: &[u8], piece: usize) -> (Vec<ServerRecord>, bool) {
    let (mut stream, mut found) = (ServerStream::default(), Vec::new());
    for part in data.chunks(piece.max(1)) {
        if stream.feed(part, |r| found.push(r)).is_err() {
            return (found, true);
        }
    }
    (found, false)
}

/// Pieces do not matter, and responses and pongs are the same when encoded again.
pub fn from_intercept(data: &[u8]) {
    let piece = usize::from(data.first().copied().unwrap_or(0)) % 97 + 1;
    // As it is, and behind an acknowledgement, so that most inputs get to the frames.
    let acknowledged = [&ack(0)[..], data].concat();
    for stream in [data, &acknowledged] {
        let whole = records(stream, stream.len());
        assert_eq!(whole, records(stream, piece));
        assert_eq!(whole, records(stream, 1));
        for record in whole.0 {
            let again = match record {
                ServerRecord::Header(header) => {
                    let record = HeaderRecord::new(&header).to_bytes();
                    // SACK blocks that did not fit were left out at the first encoding.
                    let mut back = HeaderRecord::decode(record);
                    back.sack = header.sack;
                    assert_eq!(back, header);
                    continue;
                }
                ServerRecord::Pong(pong) => [&ack(0)[..], &pong.to_frame()].concat(),
                ServerRecord::Confirmed { client, target } => [
                    &ack(0)[..],
                    &confirmed_head(1),
                    &HeaderRecord::confirmed(client, target).to_bytes(),
                ]
                .concat(),
                ServerRecord::NoHeader => continue,
            };
            assert_eq!(records(&again, ACK_BYTES), (vec![record], false));
        }
    }
}

/// Messages are the same when encoded again.
pub fn from_tcpcopy(data: &[u8]) {
    let (messages, _) = data.as_chunks::<CLIENT_MESSAGE_BYTES>();
    for &message in messages {
        let again = match ClientMessage::decode(message) {
            ClientRecord::Add { client, target } => ClientMessage::add(client, target),
            ClientRecord::Del { client, target } => ClientMessage::del(client, target),
            ClientRecord::UdpTarget { target } => ClientMessage::udp_target(target),
            ClientRecord::Ping { token } => ClientMessage::ping(token),
            ClientRecord::Hello { .. } | ClientRecord::Unknown { .. } => continue,
        };
        assert_eq!(
            ClientMessage::decode(again.to_bytes()),
            ClientMessage::decode(message)
        );
    }
}
