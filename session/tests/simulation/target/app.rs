//! The application on a connection: reads requests, works, answers.

use crate::client::REQUEST_HEADER_BYTES;
use crate::setting::Behaviour;
use common::flow::Nanos;
use smoltcp::socket::tcp;
use std::collections::VecDeque;

/// A piece of an answer.
#[derive(Debug)]
struct Piece {
    at: Nanos,
    bytes: usize,
    /// Completes an answer.
    last: bool,
}

/// What the application knows of one connection.
#[derive(Debug)]
pub struct Seen {
    pub bytes: Vec<u8>,
    /// Bytes of complete requests.
    parsed: usize,
    /// Answers given whole, greeting included.
    pub answers: usize,
    /// Every piece went into the send buffer in one go, so that PSH ended no less than a piece.
    pub at_once: bool,
    greeted: bool,
    working: VecDeque<Piece>,
    /// Bytes that wait for room in the send buffer.
    pending: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            parsed: 0,
            answers: 0,
            at_once: true,
            greeted: false,
            working: VecDeque::new(),
            pending: 0,
        }
    }
}

impl Seen {
    /// When the next piece is due; not while room for the last one is missing.
    pub fn ready_at(&self) -> Option<Nanos> {
        self.working
            .front()
            .filter(|_| self.pending == 0)
            .map(|p| p.at)
    }
}

pub fn serve(socket: &mut tcp::Socket<'_>, seen: &mut Seen, now: Nanos, b: &Behaviour) {
    if socket.state() == tcp::State::Established && !seen.greeted {
        seen.greeted = true;
        if b.greeting > 0 {
            seen.working.push_back(Piece {
                at: now,
                bytes: b.greeting as usize,
                last: true,
            });
        }
    }
    let deaf = b.deaf.is_some_and(|d| d.covers(now));
    while socket.can_recv() && !deaf {
        let bytes = &mut seen.bytes;
        let got = socket.recv(|data| {
            bytes.extend_from_slice(data);
            (data.len(), data.len())
        });
        if got.is_err() {
            break;
        }
    }
    parse(seen, now, b);
    answer(socket, seen, now);
    let idle = seen.pending == 0 && seen.working.is_empty();
    let served = b
        .close_after
        .is_some_and(|n| seen.answers >= n + usize::from(b.greeting > 0));
    if idle && (served || !socket.may_recv()) && socket.may_send() {
        socket.close();
    }
}

fn parse(seen: &mut Seen, now: Nanos, b: &Behaviour) {
    loop {
        let rest = &seen.bytes[seen.parsed..];
        let Some(&[p, q, r, s, e, f, g, h]) = rest.first_chunk::<REQUEST_HEADER_BYTES>() else {
            break;
        };
        // A stream that is not one of ours has no meaning; it is reported when the run is over.
        let len = (u32::from_be_bytes([p, q, r, s]) as usize).max(REQUEST_HEADER_BYTES);
        if rest.len() < len {
            break;
        }
        seen.parsed += len;
        if b.mute {
            continue;
        }
        let wanted = u64::from(u32::from_be_bytes([e, f, g, h])).min(1 << 20);
        let bytes = (wanted * b.answer_permille / 1000).max(1) as usize;
        let pieces = b.pieces.clamp(1, bytes);
        // Answers go out in order, one after the other.
        let begin = (now + b.service).max(seen.working.back().map_or(now, |p| p.at));
        for n in 0..pieces {
            let last = n + 1 == pieces;
            let size = bytes / pieces;
            seen.working.push_back(Piece {
                at: begin + Nanos(b.pause.0 * n as u64),
                bytes: if last { bytes - size * n } else { size },
                last,
            });
        }
    }
}

fn answer(socket: &mut tcp::Socket<'_>, seen: &mut Seen, now: Nanos) {
    const CHUNK: [u8; 4096] = [0x55; 4096];
    loop {
        while seen.pending > 0 && socket.can_send() {
            let n = seen.pending.min(CHUNK.len());
            seen.pending -= socket.send_slice(&CHUNK[..n]).unwrap_or(seen.pending);
        }
        if seen.pending > 0 {
            seen.at_once = false;
            return;
        }
        match seen.working.front() {
            Some(p) if p.at <= now => {
                seen.pending = p.bytes;
                seen.answers += usize::from(p.last);
                seen.working.pop_front();
            }
            _ => return,
        }
    }
}
