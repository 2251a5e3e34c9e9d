//! The rings between the control thread and workers, and between workers: fixed-size items, one
//! producer, one consumer, no lock.

use super::{Command, ConnectionId, Response};
use dataplane::BATCH;
use dataplane::wake::WakerHandle;
use rtrb::{Consumer, Producer, RingBuffer};

/// Commands in flight to one worker. tcpcopy announces each session once: at 100,000 sessions a second
/// this holds 160 ms of them (1 MiB a ring).
const COMMAND_RING: usize = 16_384;
/// Commands a worker handles per loop: about 100 us of hash inserts, so packets never wait long.
const COMMAND_BUDGET: usize = 1024;
/// Records in flight between two workers (320 KiB a ring): several milliseconds at a million a second,
/// against a worker that wakes within 0.1 ms.
const LINK_RING: usize = 4096;
/// Records taken from one ring per loop.
const LINK_BUDGET: usize = 4 * BATCH;

/// The control thread's ends.
pub struct CommandSender {
    rings: Vec<(Producer<Command>, WakerHandle)>,
}

/// A worker's end.
pub struct CommandReceiver(Consumer<Command>);

/// One command ring per worker, given the workers' wakers.
pub fn command_rings(wakers: Vec<WakerHandle>) -> (CommandSender, Vec<CommandReceiver>) {
    let (rings, receivers) = wakers
        .into_iter()
        .map(|waker| {
            let (producer, consumer) = RingBuffer::new(COMMAND_RING);
            ((producer, waker), CommandReceiver(consumer))
        })
        .unzip();
    (CommandSender { rings }, receivers)
}

impl CommandSender {
    /// Number of workers.
    pub fn workers(&self) -> u32 {
        self.rings.len() as u32
    }

    /// Commands that every worker can take now. The control thread reads from peers only while there is
    /// room for what it may read, so that no announcement is lost: TCP holds the peers back.
    pub fn room(&self) -> usize {
        self.rings
            .iter()
            .map(|(ring, _)| ring.slots())
            .min()
            .unwrap_or(0)
    }

    /// Sends to one worker. False if its ring is full (see [`CommandSender::room`]) or it has ended.
    pub fn send(&mut self, worker: u32, command: Command) -> bool {
        self.rings
            .get_mut(worker as usize)
            .is_some_and(|(ring, _)| ring.push(command).is_ok())
    }

    /// Wakes all workers; after a round of sending.
    pub fn wake(&self) {
        for (_, waker) in &self.rings {
            waker.wake();
        }
    }
}

impl CommandReceiver {
    /// Takes up to a budget of commands; false if more are there.
    pub fn drain(&mut self, mut act: impl FnMut(Command)) -> bool {
        for _ in 0..COMMAND_BUDGET {
            match self.0.pop() {
                Ok(command) => act(command),
                Err(_) => return true,
            }
        }
        self.0.is_empty()
    }

    /// Nothing to take.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A record and the connection it is for.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// Where it goes.
    pub connection: ConnectionId,
    /// What goes.
    pub response: Response,
}

/// One worker's ends of the rings to the other workers, for records whose connection another one owns.
pub struct Links {
    to: Vec<Option<Link>>,
    from: Vec<Consumer<Routed>>,
    /// Records lost because the owner's ring was full.
    dropped: u64,
}

struct Link {
    ring: Producer<Routed>,
    waker: WakerHandle,
    /// Records of this batch: published together, so that the owner's cache line moves once per batch.
    staged: Vec<Routed>,
}

/// Rings for every ordered pair of workers, given their wakers.
pub fn link_mesh(wakers: &[WakerHandle]) -> Vec<Links> {
    let workers = wakers.len();
    let mut ends: Vec<Links> = (0..workers)
        .map(|_| Links {
            to: Vec::with_capacity(workers),
            from: Vec::new(),
            dropped: 0,
        })
        .collect();
    for source in 0..workers {
        for (owner, waker) in wakers.iter().enumerate() {
            let link = (source != owner).then(|| {
                let (ring, consumer) = RingBuffer::new(LINK_RING);
                ends[owner].from.push(consumer);
                Link {
                    ring,
                    waker: waker.clone(),
                    staged: Vec::with_capacity(BATCH),
                }
            });
            ends[source].to.push(link);
        }
    }
    ends
}

impl Links {
    /// Stages a record for worker `to`.
    pub fn stage(&mut self, to: u32, routed: Routed) {
        match self.to.get_mut(to as usize).and_then(Option::as_mut) {
            Some(link) => {
                link.staged.push(routed);
                if link.staged.len() >= BATCH {
                    self.dropped += link.publish();
                }
            }
            None => self.dropped += 1,
        }
    }

    /// Hands over everything staged and wakes who sleeps.
    pub fn flush(&mut self) {
        for link in self.to.iter_mut().flatten() {
            if !link.staged.is_empty() {
                self.dropped += link.publish();
            }
        }
    }

    /// Records waiting in each ring now; the argument of [`Links::take`].
    pub fn waiting(&self, counts: &mut Vec<usize>) {
        counts.clear();
        counts.extend(self.from.iter().map(|ring| ring.slots().min(LINK_BUDGET)));
    }

    /// Takes from each ring as many records as `counts` says; returns their number.
    pub fn take(&mut self, counts: &[usize], mut act: impl FnMut(&Routed)) -> usize {
        let mut taken = 0;
        for (ring, &count) in self.from.iter_mut().zip(counts) {
            let Ok(chunk) = ring.read_chunk(count) else {
                continue;
            };
            let (a, b) = chunk.as_slices();
            a.iter().chain(b).for_each(&mut act);
            chunk.commit_all();
            taken += count;
        }
        taken
    }

    /// Nothing to take.
    pub fn is_empty(&self) -> bool {
        self.from.iter().all(Consumer::is_empty)
    }

    /// Records lost because an owner's ring was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Link {
    /// Returns the number of records that found no room.
    fn publish(&mut self) -> u64 {
        let (_, rest) = self.ring.push_partial_slice(&self.staged);
        let lost = rest.len() as u64;
        self.staged.clear();
        self.waker.wake();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Kind;
    use common::flow::Nanos;
    use dataplane::wake::Waker;

    fn routed(n: u64) -> Routed {
        let response = Response {
            kind: Kind::Header,
            at: Nanos(n),
            record: [0; common::wire::native::HEADER_RECORD_BYTES],
        };
        Routed {
            connection: ConnectionId::default(),
            response,
        }
    }

    #[test]
    fn a_full_link_drops_the_newest_and_counts() {
        let wakers: Vec<Waker> = (0..2).map(|_| Waker::new().expect("waker")).collect();
        let handles: Vec<WakerHandle> = wakers.iter().map(Waker::handle).collect();
        let mut ends = link_mesh(&handles);
        let total = LINK_RING as u64 + 10;
        for n in 0..total {
            ends[0].stage(1, routed(n));
        }
        ends[0].flush();
        assert_eq!(ends[0].dropped(), 10);
        let mut seen = Vec::new();
        let mut counts = Vec::new();
        while !ends[1].is_empty() {
            ends[1].waiting(&mut counts);
            ends[1].take(&counts, |r| seen.push(r.response.at.0));
        }
        assert_eq!(seen, (0..LINK_RING as u64).collect::<Vec<_>>());
    }

    #[test]
    fn records_for_nobody_are_counted() {
        let waker = Waker::new().expect("waker");
        let mut ends = link_mesh(&[waker.handle()]);
        ends[0].stage(0, routed(1));
        ends[0].stage(7, routed(2));
        assert_eq!(ends[0].dropped(), 2);
    }
}
