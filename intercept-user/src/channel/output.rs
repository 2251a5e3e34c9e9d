//! The writing side of one connection, owned by one worker.
//!
//! ```text
//!  record ─▶ queue (bounded, drop oldest) ─▶ frames of up to 16, staged whole ─▶ send(2), nonblocking
//!  confirmation ─▶ another, which goes first: a SYN waits for each
//! ```
//! C tcpcopy spins until a frame that has begun is complete, so what has been staged is written to its end
//! before anything else, and only records that have not been staged can be dropped. With a key, what is staged at a
//! time is one sealed record.

use super::reader::Format;
use super::{Kind, Response};
use channel_crypto::Sealer;
use common::flow::Nanos;
use common::wire::compat::{self, MAX_RECORDS};
use common::wire::native::{self, HEADER_RECORD_BYTES, HeaderRecord, Pong};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Records that wait for a peer that does not read: 512 to 608 KiB on the wire, beside what the kernel's socket
/// buffer holds. Older ones are of no use to a TCP sender, which has sent again by then.
pub const QUEUE_RECORDS: usize = 8192;
/// Frames per send(2): 16 KiB, four full batches. More does not make the call cheaper per byte.
const STAGED_FRAMES: usize = 16;
const STAGED_RECORDS: usize = STAGED_FRAMES * MAX_RECORDS;
/// Between two attempts on a full socket while the worker is too busy to sleep in poll(2).
const RETRY_INTERVAL: Nanos = Nanos::from_millis(1);

/// What became of a connection's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputTotals {
    /// Written to the socket.
    pub sent: u64,
    /// Frames written.
    pub frames: u64,
    /// Dropped, oldest first, because the peer does not read fast enough.
    pub dropped_full: u64,
    /// Lost with the connection.
    pub dropped_closed: u64,
    /// Longest time from the kernel's capture to the write, in ns.
    pub lag_max_ns: u64,
}

impl std::ops::AddAssign for OutputTotals {
    fn add_assign(&mut self, o: Self) {
        self.sent += o.sent;
        self.frames += o.frames;
        self.dropped_full += o.dropped_full;
        self.dropped_closed += o.dropped_closed;
        self.lag_max_ns = self.lag_max_ns.max(o.lag_max_ns);
    }
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing left.
    Empty,
    /// The socket is full; more when it is writable.
    Blocked,
    /// The connection is broken; the control thread learns of it by reading.
    Broken,
}

/// Queue and writer of a connection. See the module head.
pub struct Output {
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    native: bool,
    sealer: Option<Box<Sealer>>,
    /// What is to be sealed.
    plain: Vec<u8>,
    /// Token of a ping that is to be answered.
    ping: Option<u64>,
    /// Longest lag since the last answer.
    lag_max_ns: u64,
    queue: VecDeque<Response>,
    /// Confirmations, for peers that were told that there are any.
    confirmed: VecDeque<[u8; HEADER_RECORD_BYTES]>,
    /// Whole frames, written up to `written`.
    staged: Vec<u8>,
    written: usize,
    /// Capture times of the staged records, in order; the first `reported` have been reported.
    staged_at: Vec<Nanos>,
    reported: usize,
    retry_at: Option<Nanos>,
    broken: bool,
    totals: OutputTotals,
}

impl Output {
    /// For a nonblocking socket. In our own format the stream begins with the answer to the peer's offer, which is
    /// staged at once; in sealed form the greeting has gone out before.
    pub fn new(socket: Arc<TcpStream>, peer: SocketAddr, format: Format) -> Self {
        let mut staged = Vec::with_capacity(STAGED_FRAMES * native::MAX_FRAME_BYTES);
        let (native, sealer) = match format {
            Format::Compat => (false, None),
            Format::Native(flags) => {
                staged.extend_from_slice(&native::ack(flags));
                (true, None)
            }
            Format::Sealed(sealer) => (true, Some(sealer)),
        };
        Self {
            socket,
            peer,
            native,
            sealer,
            plain: Vec::new(),
            ping: None,
            lag_max_ns: 0,
            queue: VecDeque::with_capacity(STAGED_RECORDS),
            confirmed: VecDeque::new(),
            staged,
            written: 0,
            staged_at: Vec::with_capacity(STAGED_RECORDS),
            reported: 0,
            retry_at: None,
            broken: false,
            totals: OutputTotals::default(),
        }
    }

    /// Queues a record; drops the oldest if there are [`QUEUE_RECORDS`] already.
    #[inline]
    pub fn push(&mut self, response: &Response) {
        if self.broken {
            self.totals.dropped_closed += u64::from(response.kind == Kind::Header);
            return;
        }
        if response.kind == Kind::Confirmed {
            // Whom the oldest was for does not wait any more: a SYN waits for a second.
            if self.confirmed.len() >= QUEUE_RECORDS {
                self.confirmed.pop_front();
            }
            self.confirmed.push_back(response.record);
            return;
        }
        if self.queue.len() >= QUEUE_RECORDS {
            self.queue.pop_front();
            self.totals.dropped_full += 1;
        }
        self.queue.push_back(*response);
    }

    /// The next flush answers a ping. Of several that wait only the last is answered.
    pub fn ping(&mut self, token: u64) {
        self.ping = (self.native && !self.broken).then_some(token);
    }

    /// Writes what the socket takes. Appends the capture times of the records that have been written
    /// to `done`.
    pub fn flush(&mut self, now: Nanos, done: &mut Vec<Nanos>) -> Flushed {
        if self.retry_at.is_some_and(|at| now < at) {
            return Flushed::Blocked;
        }
        self.retry_at = None;
        loop {
            if self.written == self.staged.len() {
                if !self.stage() {
                    self.fail();
                    return Flushed::Broken;
                }
                if self.staged.is_empty() {
                    return Flushed::Empty;
                }
            }
            let rest = self.staged.get(self.written..).unwrap_or_default();
            // NOSIGNAL: a peer that has gone must not end the process by SIGPIPE.
            match send(
                &*self.socket,
                rest,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(n) => {
                    self.written += n;
                    self.report(now, done);
                }
                Err(Errno::INTR) => {}
                // Out of socket memory is as good as a full buffer.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.retry_at = Some(now + RETRY_INTERVAL);
                    return Flushed::Blocked;
                }
                Err(_) => {
                    self.fail();
                    return Flushed::Broken;
                }
            }
        }
    }

    /// The socket became writable: the next flush tries at once.
    pub fn writable(&mut self) {
        self.retry_at = None;
    }

    /// Waits for room in a full socket.
    pub fn blocked(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Descriptor to poll for room.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Far end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Records not yet written.
    pub fn pending(&self) -> usize {
        self.queue.len() + self.staged_at.len() - self.reported
    }

    /// What became of the records so far; what is pending is counted as lost.
    pub fn close(mut self) -> (SocketAddr, OutputTotals) {
        self.totals.dropped_closed += self.pending() as u64;
        (self.peer, self.totals)
    }

    /// Stages frames of what is queued, or the answer to a ping alone. False: sealing has come to its end.
    fn stage(&mut self) -> bool {
        self.staged.clear();
        self.staged_at.clear();
        (self.written, self.reported) = (0, 0);
        // Buffers are taken out and put back, so that they are kept.
        if self.sealer.is_none() {
            let mut staged = std::mem::take(&mut self.staged);
            self.frames(&mut staged);
            self.staged = staged;
            return true;
        }
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        self.frames(&mut plain);
        let sealed = plain.is_empty()
            || self
                .sealer
                .as_mut()
                .is_some_and(|sealer| sealer.seal(&plain, &mut self.staged));
        self.plain = plain;
        sealed
    }

    fn frames(&mut self, to: &mut Vec<u8>) {
        if let Some(token) = self.ping.take() {
            let pong = Pong {
                token,
                sent: self.totals.sent,
                dropped_full: self.totals.dropped_full,
                waiting: self.queue.len() as u64,
                lag_max_ns: std::mem::take(&mut self.lag_max_ns),
            };
            to.extend_from_slice(&pong.to_frame());
            return;
        }
        if !self.confirmed.is_empty() {
            self.confirmations(to);
            return;
        }
        for _ in 0..STAGED_FRAMES {
            let count = self.queue.len().min(MAX_RECORDS);
            if count == 0 {
                return;
            }
            if self.native {
                to.extend_from_slice(&native::frame_head(count as u16));
            } else {
                to.extend_from_slice(&(count as u16).to_be_bytes());
            }
            for response in self.queue.drain(..count) {
                if self.native {
                    to.extend_from_slice(&response.record);
                } else {
                    // IPv6 has no C record, and a C peer no route for it: zeros, which are no header, keep
                    // the frame whole all the same.
                    let header = HeaderRecord::decode(response.record);
                    let record =
                        compat::encode_record(&header).unwrap_or([0; compat::RECORD_BYTES]);
                    to.extend_from_slice(&record);
                }
                self.staged_at.push(response.at);
            }
        }
    }

    /// Frames of confirmations only, which nobody counts.
    fn confirmations(&mut self, to: &mut Vec<u8>) {
        for _ in 0..STAGED_FRAMES {
            let count = self.confirmed.len().min(MAX_RECORDS);
            if count == 0 {
                return;
            }
            to.extend_from_slice(&native::confirmed_head(count as u16));
            for record in self.confirmed.drain(..count) {
                to.extend_from_slice(&record);
            }
        }
    }

    /// Bytes of a full frame.
    fn frame_bytes(&self) -> usize {
        if self.native {
            native::MAX_FRAME_BYTES
        } else {
            compat::MAX_FRAME_BYTES
        }
    }

    /// Counts the frames that are out. All but the last of what is staged are full ones.
    fn report(&mut self, now: Nanos, done: &mut Vec<Nanos>) {
        let complete = if self.written == self.staged.len() {
            self.staged_at.len()
        } else if self.sealer.is_some() {
            // A sealed record opens whole or not at all.
            0
        } else {
            // Of confirmations there are more frames than records to report.
            (self.written / self.frame_bytes() * MAX_RECORDS).min(self.staged_at.len())
        };
        let new = self
            .staged_at
            .get(self.reported..complete)
            .unwrap_or_default();
        // In the order of their capture, but for those of other workers: near enough for a maximum.
        let lag = new.first().map_or(0, |&oldest| now.since(oldest).0);
        self.lag_max_ns = self.lag_max_ns.max(lag);
        self.totals.lag_max_ns = self.totals.lag_max_ns.max(lag);
        done.extend_from_slice(new);
        self.totals.sent += new.len() as u64;
        self.totals.frames += new.len().div_ceil(MAX_RECORDS) as u64;
        self.reported = complete.max(self.reported);
    }

    fn fail(&mut self) {
        self.broken = true;
        self.totals.dropped_closed += self.pending() as u64;
        self.queue.clear();
        self.confirmed.clear();
        self.ping = None;
        self.staged.clear();
        self.staged_at.clear();
        (self.written, self.reported) = (0, 0);
        // Makes the control thread's read return, whatever the error was.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::flow::ResponseHeader;
    use common::packet::{Addr, Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions};
    use common::wire::compat::{FrameDecoder, MAX_FRAME_BYTES, RECORD_BYTES};
    use common::wire::native::{ServerRecord, ServerStream, ack_flags};
    use std::io::Read;
    use std::net::TcpListener;

    fn pair() -> (Output, TcpStream) {
        pair_in(false)
    }

    fn pair_in(native: bool) -> (Output, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let far = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (near, peer) = listener.accept().expect("accept");
        near.set_nonblocking(true).expect("nonblocking");
        let format = if native {
            Format::Native(ack_flags::CONFIRMS)
        } else {
            Format::Compat
        };
        (Output::new(Arc::new(near), peer, format), far)
    }

    fn response(n: u64) -> Response {
        let own = Endpoint::new(Addr::v4([10, 0, 0, 1]), 80);
        let header = ResponseHeader {
            target: own,
            client: own,
            seq: SeqNumber(n as u32),
            ack: SeqNumber(0),
            flags: TcpFlags::ACK,
            window: 0,
            payload_len: 0,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        };
        Response {
            kind: Kind::Header,
            at: Nanos(n),
            record: HeaderRecord::new(&header).to_bytes(),
        }
    }

    #[test]
    fn a_native_stream_begins_with_the_answer_and_carries_all() {
        let (mut output, mut far) = pair_in(true);
        let mut done = Vec::new();
        assert_eq!(output.flush(Nanos(1), &mut done), Flushed::Empty);
        assert_eq!(done, []);
        for n in 0..40 {
            output.push(&response(n));
        }
        assert_eq!(output.flush(Nanos(1), &mut done), Flushed::Empty);
        let (mut stream, mut got) = (ServerStream::default(), Vec::new());
        let mut chunk = [0; 500];
        while got.len() < 40 {
            let n = far.read(&mut chunk).expect("read");
            stream
                .feed(&chunk[..n], |r| match r {
                    ServerRecord::Header(h) => got.push(h.seq.0),
                    other => panic!("{other:?}"),
                })
                .expect("frames");
        }
        assert!(stream.is_native());
        assert_eq!(got, (0..40).collect::<Vec<_>>());
        let (_, totals) = output.close();
        assert_eq!((totals.sent, totals.frames), (40, 3));
    }

    #[test]
    fn a_batch_goes_out_in_frames_of_sixteen() {
        let (mut output, mut far) = pair();
        for n in 0..40 {
            output.push(&response(n));
        }
        let mut done = Vec::new();
        assert_eq!(output.flush(Nanos(1), &mut done), Flushed::Empty);
        assert_eq!(done, (0..40).map(Nanos).collect::<Vec<_>>());
        let mut bytes = vec![0; 3 * 2 + 40 * RECORD_BYTES];
        far.read_exact(&mut bytes).expect("frames");
        assert_eq!(bytes[..2], [0, 16]);
        assert_eq!(bytes[MAX_FRAME_BYTES..][..2], [0, 16]);
        assert_eq!(bytes[2 * MAX_FRAME_BYTES..][..2], [0, 8]);
        let (_, totals) = output.close();
        assert_eq!((totals.sent, totals.frames), (40, 3));
    }

    #[test]
    fn confirmations_go_first_and_are_no_records() {
        let (mut output, mut far) = pair_in(true);
        let mut done = Vec::new();
        let own = |n| Endpoint::new(Addr::v4([10, 0, 0, 1]), n);
        // More than are staged at a time.
        let count = STAGED_RECORDS as u16 + 40;
        output.push(&response(1));
        for n in 0..count {
            output.push(&Response {
                kind: Kind::Confirmed,
                at: Nanos(0),
                record: HeaderRecord::confirmed(own(n), own(80)).to_bytes(),
            });
        }
        assert_eq!(output.pending(), 1);
        assert_eq!(output.flush(Nanos(1), &mut done), Flushed::Empty);
        assert_eq!((output.pending(), &done[..]), (0, &[Nanos(1)][..]));
        let (mut stream, mut got) = (ServerStream::default(), Vec::new());
        let mut chunk = [0; 500];
        while got.len() <= usize::from(count) {
            let n = far.read(&mut chunk).expect("read");
            stream.feed(&chunk[..n], |r| got.push(r)).expect("frames");
        }
        let last = got.pop();
        assert!(matches!(last, Some(ServerRecord::Header(_))), "{last:?}");
        for (n, record) in (0..count).zip(got) {
            let (client, target) = (own(n), own(80));
            assert_eq!(record, ServerRecord::Confirmed { client, target });
        }
        let (_, totals) = output.close();
        assert_eq!((totals.sent, totals.frames), (1, 1));
    }

    #[test]
    fn a_peer_that_does_not_read_loses_the_oldest_and_gets_whole_frames() {
        let (mut output, mut far) = pair();
        let mut done = Vec::new();
        let mut pushed = 0;
        // Until the socket is full and the queue has overflowed by a thousand records.
        while output.totals.dropped_full < 1000 {
            output.push(&response(pushed));
            pushed += 1;
            if pushed % 64 == 0 {
                output.flush(Nanos(pushed), &mut done);
            }
        }
        assert!(output.blocked());
        assert_eq!(output.flush(Nanos(pushed), &mut done), Flushed::Blocked);
        let sent_before = done.len() as u64;
        let (mut decoder, mut got) = (FrameDecoder::default(), Vec::new());
        let mut chunk = vec![0; 1 << 16];
        while got.last().is_none_or(|&last| last + 1 < pushed) {
            output.writable();
            assert_ne!(output.flush(Nanos(pushed), &mut done), Flushed::Broken);
            let n = far.read(&mut chunk).expect("read");
            decoder
                .feed(&chunk[..n], |r| {
                    let header = compat::decode_record(r).expect("header");
                    got.push(u64::from(header.seq.0));
                })
                .expect("frames stay whole");
        }
        assert!(got.is_sorted(), "order is kept");
        assert!(got.len() as u64 > sent_before);
        let (_, totals) = output.close();
        assert_eq!(totals.sent, got.len() as u64);
        assert_eq!(totals.sent + totals.dropped_full, pushed);
        assert_eq!(totals.dropped_closed, 0);
    }

    #[test]
    fn a_broken_connection_counts_what_it_takes_along() {
        let (mut output, far) = pair();
        drop(far);
        let mut done = Vec::new();
        let mut pushed = 0;
        // The first write provokes the RST, a later one fails.
        loop {
            output.push(&response(pushed));
            pushed += 1;
            if output.flush(Nanos(pushed), &mut done) == Flushed::Broken {
                break;
            }
        }
        output.push(&response(pushed));
        let (_, totals) = output.close();
        assert_eq!(totals.sent + totals.dropped_closed, pushed + 1);
        assert!(totals.dropped_closed >= 2);
    }
}
