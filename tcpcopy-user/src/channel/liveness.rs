//! Whether the other end still works: a connection can be whole while the program behind it hangs.

use common::flow::Nanos;

/// Between two pings of a connection. Rare enough that an idle worker sleeps on, and as old as intercept's
/// counters in the report may be.
pub const PING_INTERVAL: Nanos = Nanos::from_secs(5);
/// A peer that has said nothing for so long after a ping is lost: two more pings have gone unanswered too.
pub const SILENCE_LIMIT: Nanos = Nanos::from_secs(15);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A ping.
    Ping,
    /// The peer is lost.
    Lost,
}

/// Of one connection whose peer answers pings.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    ping_at: Nanos,
    /// When the first ping since the last byte from the peer went out.
    waiting_since: Option<Nanos>,
}

impl Liveness {
    /// The first ping is due at once: its answer tells the counters of a short run too.
    pub fn new(now: Nanos) -> Self {
        Self {
            ping_at: now,
            waiting_since: None,
        }
    }

    /// Bytes have come.
    pub fn heard(&mut self) {
        self.waiting_since = None;
    }

    /// When [`Liveness::due`] may say something.
    pub fn deadline(&self) -> Nanos {
        self.ping_at
    }

    /// Called after what the peer has sent was read: a worker that was stopped for a minute must not take a
    /// peer that has answered meanwhile for lost.
    pub fn due(&mut self, now: Nanos) -> Due {
        if now < self.ping_at {
            return Due::Nothing;
        }
        // Whole multiples, so that all connections of a worker ping in one wake-up.
        self.ping_at = Nanos((now.0 / PING_INTERVAL.0 + 1) * PING_INTERVAL.0);
        let since = *self.waiting_since.get_or_insert(now);
        if now.since(since) >= SILENCE_LIMIT {
            Due::Lost
        } else {
            Due::Ping
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_stays_and_who_does_not_is_lost_after_the_limit() {
        let start = Nanos::from_millis(1_000_700);
        let mut live = Liveness::new(start);
        assert_eq!(live.due(start), Due::Ping);
        assert_eq!(live.due(start), Due::Nothing);
        let mut now = start;
        for _ in 0..100 {
            live.heard();
            now = live.deadline();
            assert_eq!(now.0 % PING_INTERVAL.0, 0);
            assert_eq!(live.due(now), Due::Ping);
        }
        let silent_from = now;
        loop {
            now = live.deadline();
            match live.due(now) {
                Due::Ping => assert!(now.since(silent_from) < SILENCE_LIMIT),
                Due::Lost => break,
                Due::Nothing => panic!("the deadline was early"),
            }
        }
        assert_eq!(now.since(silent_from), SILENCE_LIMIT);
    }

    #[test]
    fn a_worker_that_slept_long_pings_before_it_judges() {
        let mut live = Liveness::new(Nanos(0));
        assert_eq!(live.due(Nanos(0)), Due::Ping);
        live.heard();
        assert_eq!(live.due(Nanos::from_secs(3600)), Due::Ping);
    }
}
