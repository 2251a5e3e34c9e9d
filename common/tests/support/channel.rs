//! What the two programs say to each other.

use common::wire::compat::{
    CLIENT_RECORD_BYTES, ClientRecord, FrameDecoder, MAX_RECORDS, RECORD_BYTES, add, decode_record,
    encode_record,
};

type Record = [u8; RECORD_BYTES];

/// Records of a stream that comes in pieces of `piece` bytes, and whether it is out of step.
fn records(data: &[u8], piece: usize) -> (Vec<Record>, bool) {
    let mut decoder = FrameDecoder::default();
    let mut found = Vec::new();
    for part in data.chunks(piece.max(1)) {
        if let Err(bad) = decoder.feed(part, |r| found.push(*r)) {
            assert!(usize::from(bad.0) > MAX_RECORDS);
            return (found, true);
        }
    }
    (found, false)
}

/// Pieces do not matter, no byte is used twice, and a response is the same when encoded again.
pub fn responses(data: &[u8]) {
    let whole = records(data, data.len());
    let piece = usize::from(data.first().copied().unwrap_or(0)) % 97 + 1;
    assert_eq!(whole, records(data, piece));
    assert_eq!(whole, records(data, 1));
    assert!(whole.0.len() * RECORD_BYTES <= data.len());
    for record in &whole.0 {
        let Some(h) = decode_record(record) else {
            continue;
        };
        assert!(u16::try_from(h.payload_len).is_ok());
        let Some(again) = encode_record(&h) else {
            panic!("not IPv4: {h:?}");
        };
        let mut back = decode_record(&again).expect("what is encoded decodes");
        // A record has room for 24 bytes of options: SACK blocks are left out first. Its length field
        // counts the headers, so a packet near 64 KiB says less.
        assert!(back.sack.as_slice().len() <= h.sack.as_slice().len());
        assert!(back.payload_len <= h.payload_len);
        if h.payload_len <= 65_000 {
            assert_eq!(back.payload_len, h.payload_len);
        }
        back.sack = h.sack;
        back.payload_len = h.payload_len;
        assert_eq!(back, h);
    }
}

/// Routes are the same when encoded again.
pub fn clients(data: &[u8]) {
    let (records, _) = data.as_chunks::<CLIENT_RECORD_BYTES>();
    for (n, r) in records.iter().enumerate() {
        if let ClientRecord::Add { client, target } = ClientRecord::decode(r, n == 0) {
            assert_eq!(add(client, target).as_ref(), Some(r));
        }
    }
}
