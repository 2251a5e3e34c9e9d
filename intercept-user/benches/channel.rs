//! Responses per second through the channel on one core: `Output`, a loopback connection, and the reader of
//! tcpcopy, in one thread, in clear text and sealed by turns.
//!
//! `taskset -c 1 cargo bench -p intercept-user --bench channel`

use channel_crypto::{Initiator, Key, Opener, respond};
use common::flow::{Nanos, ResponseHeader};
use common::packet::{Addr, Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions};
use common::wire::native::{self, HeaderRecord, ServerRecord, ServerStream};
use intercept_user::channel::{Format, Kind, Output, Response};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: u32 = 5;
const BATCHES: u32 = 20_000;
/// As a worker takes them.
const BATCH: u32 = 64;

fn response() -> Response {
    let own = Endpoint::new(Addr::v4([10, 0, 0, 1]), 80);
    let header = ResponseHeader {
        target: own,
        client: own,
        seq: SeqNumber(1),
        ack: SeqNumber(0),
        flags: TcpFlags::ACK,
        window: 0,
        payload_len: 1400,
        options: TcpOptions::default(),
        sack: SackBlocks::default(),
    };
    Response {
        kind: Kind::Header,
        at: Nanos(1),
        record: HeaderRecord::new(&header).to_bytes(),
    }
}

fn formats(sealed: bool) -> (Format, ServerStream, Option<Opener>) {
    if !sealed {
        return (Format::Native(0), ServerStream::default(), None);
    }
    let key = Key::from_bytes(&[1; 32]);
    let (tcpcopy, one) = Initiator::begin(&key, b"").expect("begin");
    let (two, intercept) = respond(&key, b"", &one).expect("respond");
    let opener = tcpcopy.finish(&two).expect("finish").opener;
    let format = Format::Sealed(Box::new(intercept.sealer));
    (format, ServerStream::native(0), Some(opener))
}

/// Responses per second.
fn run(sealed: bool) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut far = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (near, peer) = listener.accept().expect("accept");
    near.set_nonblocking(true).expect("nonblocking");
    let (format, mut stream, mut opener) = formats(sealed);
    let mut output = Output::new(Arc::new(near), peer, format);
    let (response, mut done) = (response(), Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    let (mut got, mut sent) = (0_u64, 0_u64);
    let start = Instant::now();
    for _ in 0..BATCHES {
        for _ in 0..BATCH {
            output.push(&response);
        }
        sent += u64::from(BATCH);
        output.flush(Nanos(2), &mut done);
        done.clear();
        while got < sent {
            let n = far.read(&mut buffer).expect("read");
            let mut bytes = &buffer[..n];
            let mut each = |record| got += u64::from(matches!(record, ServerRecord::Header(_)));
            match &mut opener {
                None => stream.feed(bytes, each).expect("frames"),
                Some(opener) => {
                    while let Some(plain) = opener.next(&mut bytes).expect("sealed") {
                        stream.feed(plain, &mut each).expect("frames");
                    }
                }
            }
        }
    }
    got as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds of intercept's part of a greeting.
fn greeting(right: bool) -> f64 {
    let (ours, theirs) = (Key::from_bytes(&[1; 32]), Key::from_bytes(&[2; 32]));
    let key = if right { &ours } else { &theirs };
    let (_, one) = Initiator::begin(key, b"").expect("begin");
    let start = Instant::now();
    for _ in 0..2000 {
        assert_eq!(respond(&ours, b"", &one).is_ok(), right);
    }
    start.elapsed().as_secs_f64() * 1e6 / 2000.0
}

fn main() {
    println!(
        "frame of a batch: {} bytes in clear text",
        4 * native::MAX_FRAME_BYTES
    );
    for round in 0..ROUNDS {
        let (clear, sealed) = (run(false), run(true));
        println!(
            "round {round}: {:.2} M responses/s in clear text, {:.2} sealed, {:.0} ns more each",
            clear / 1e6,
            sealed / 1e6,
            1e9 / sealed - 1e9 / clear
        );
    }
    println!(
        "greeting: {:.1} us with the key, {:.1} us until another one is refused",
        greeting(true),
        greeting(false)
    );
}
