//! What a worker knows of connections: of all whether they are open, of its own the queue.

use crate::channel::{ConnectionId, Flushed, Format, Output, OutputTotals, Response};
use common::flow::Nanos;
use dataplane::poll::PollSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// Closed peers that the report lists one by one; later ones are summed up. A tcpcopy that reconnects
/// all day must not grow the list.
const CLOSED_PEERS: usize = 64;

#[derive(Default)]
struct Place {
    generation: u32,
    open: bool,
    output: Option<Output>,
    /// In the list of those to be flushed.
    pending: bool,
}

/// Connections by number.
#[derive(Default)]
pub struct Connections {
    places: Vec<Place>,
    /// Own connections with something to write.
    pending: Vec<u32>,
    closed: Vec<(SocketAddr, OutputTotals)>,
    others: OutputTotals,
    /// Records for a connection that was closed while they were on their way.
    homeless: u64,
}

impl Connections {
    /// A connection exists; with its socket if it is this worker's.
    pub fn open(
        &mut self,
        id: ConnectionId,
        peer: SocketAddr,
        writing: Option<(Arc<TcpStream>, Format)>,
    ) {
        let index = id.index as usize;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, Place::default);
        }
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        // Its Close came first in the same ring; kept right all the same.
        if let Some(output) = place.output.take() {
            self.archive(output);
        }
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        place.generation = id.generation;
        place.open = true;
        place.output = writing.map(|(socket, format)| Output::new(socket, peer, format));
        if place.output.is_some() && !place.pending {
            // The answer to its offer may be waiting to be written.
            place.pending = true;
            self.pending.push(id.index);
        }
    }

    /// A peer wants a sign of life.
    pub fn ping(&mut self, id: ConnectionId, token: u64) {
        let place = self.places.get_mut(id.index as usize);
        if let Some(place) = place.filter(|p| p.generation == id.generation)
            && let Some(output) = &mut place.output
        {
            output.ping(token);
            if !place.pending {
                place.pending = true;
                self.pending.push(id.index);
            }
        }
    }

    /// A connection is gone; false if that was known.
    pub fn close(&mut self, id: ConnectionId) -> bool {
        let Some(place) = self.places.get_mut(id.index as usize) else {
            return false;
        };
        if place.generation != id.generation || !place.open {
            return false;
        }
        place.open = false;
        if let Some(output) = place.output.take() {
            self.archive(output);
        }
        true
    }

    /// Open, as far as this worker knows.
    #[inline]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.places
            .get(id.index as usize)
            .is_some_and(|p| p.open && p.generation == id.generation)
    }

    /// Queues a record for one of this worker's connections.
    #[inline]
    pub fn push(&mut self, id: ConnectionId, response: &Response) {
        let Self {
            places,
            pending,
            homeless,
            ..
        } = self;
        let place = places
            .get_mut(id.index as usize)
            .filter(|p| p.generation == id.generation);
        let Some(Place {
            output: Some(output),
            pending: listed,
            ..
        }) = place
        else {
            *homeless += 1;
            return;
        };
        output.push(response);
        if !*listed {
            *listed = true;
            pending.push(id.index);
        }
    }

    /// Writes what is queued. Appends the capture times of written records to `done`.
    pub fn flush(&mut self, now: Nanos, done: &mut Vec<Nanos>) {
        let Self {
            places, pending, ..
        } = self;
        pending.retain(|&index| {
            let Some(place) = places.get_mut(index as usize) else {
                return false;
            };
            let more = place
                .output
                .as_mut()
                .is_some_and(|output| output.flush(now, done) == Flushed::Blocked);
            place.pending = more;
            more
        });
    }

    /// Adds the sockets that are full to what is slept on.
    pub fn poll_blocked(&self, set: &mut PollSet) {
        for output in self
            .pending
            .iter()
            .filter_map(|&i| self.places.get(i as usize)?.output.as_ref())
        {
            set.add(output.fd(), true);
        }
    }

    /// After a sleep: full sockets may have room.
    pub fn retry_blocked(&mut self) {
        for &index in &self.pending {
            if let Some(output) = self
                .places
                .get_mut(index as usize)
                .and_then(|p| p.output.as_mut())
            {
                output.writable();
            }
        }
    }

    /// Ends all; what became of each connection's records, and of those not listed one by one the sum,
    /// without an address.
    pub fn finish(mut self) -> Vec<(Option<SocketAddr>, OutputTotals)> {
        for index in 0..self.places.len() {
            if let Some(output) = self.places.get_mut(index).and_then(|p| p.output.take()) {
                let (peer, totals) = output.close();
                self.closed.push((peer, totals));
            }
        }
        let mut all: Vec<_> = self.closed.into_iter().map(|(p, t)| (Some(p), t)).collect();
        if self.others != OutputTotals::default() {
            all.push((None, self.others));
        }
        all
    }

    /// Records for a connection that was closed while they were on their way.
    pub fn homeless(&self) -> u64 {
        self.homeless
    }

    fn archive(&mut self, output: Output) {
        let (peer, totals) = output.close();
        if self.closed.len() < CLOSED_PEERS {
            self.closed.push((peer, totals));
        } else {
            self.others += totals;
        }
    }
}
