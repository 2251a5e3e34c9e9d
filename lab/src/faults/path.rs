//! One direction of a faulty cable: decides on each frame, and keeps those that are held back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    headers::with_headers,
    packet::{self, Class, Flow, Packet},
    report::PathReport,
    rule::{Action, MILLION, Rule, Select},
};
use crate::random::Random;

/// How long a frame waits for others to overtake it. Longer than a round trip here, shorter than any
/// retransmission timer, so that the last frame of a burst is late and not lost.
const OVERTAKE_WAIT: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Path {
    rules: Vec<Rule>,
    random: Random,
    flows: HashMap<Flow, FlowState>,
    held: Vec<Held>,
    /// Packets that got IPv6 extension headers.
    headers: u64,
    report: PathReport,
}

#[derive(Debug, Default)]
struct FlowState {
    /// Packets so far of each rule's class.
    seen: Vec<u32>,
    window_closed: bool,
}

#[derive(Debug)]
struct Held {
    frame: Vec<u8>,
    /// Frames that have still to overtake it; `None`: it waits for its time alone.
    others: Option<u32>,
    due: Instant,
}

impl Path {
    /// A direction to which `rules` apply, all of that direction.
    pub fn new(rules: Vec<Rule>, seed: u64) -> Self {
        Self {
            report: PathReport::new(&rules),
            rules,
            random: Random(seed),
            flows: HashMap::new(),
            held: Vec::new(),
            headers: 0,
        }
    }

    /// What was done so far.
    pub fn report(&self) -> &PathReport {
        &self.report
    }

    /// Takes a frame that came in and puts what is to be sent now into `out`, in order.
    pub fn take(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        self.report.received += 1;
        let action = packet::read(frame).and_then(|packet| self.decide(&packet));
        let hold = |others, time| Held {
            frame: frame.to_vec(),
            others,
            due: now + time,
        };
        match action {
            Some(Action::Drop) => return,
            Some(Action::Delay(time)) => return self.held.push(hold(None, time)),
            Some(Action::After(others)) => {
                return self.held.push(hold(Some(others.get()), OVERTAKE_WAIT));
            }
            Some(Action::Headers) => {
                out.push(with_headers(frame, self.headers));
                self.headers += 1;
            }
            Some(Action::Twice) => out.extend([frame.to_vec(), frame.to_vec()]),
            None => out.push(frame.to_vec()),
        }
        for held in &mut self.held {
            held.others = held.others.map(|others| others - 1);
        }
        self.release(now, out);
    }

    /// Puts the held frames whose time has come into `out`.
    pub fn release(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let ready = |held: &mut Held| held.others == Some(0) || held.due <= now;
        out.extend(self.held.extract_if(.., ready).map(|held| held.frame));
    }

    /// When [`Self::release`] has something to do at the latest.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.due).min()
    }

    fn decide(&mut self, packet: &Packet) -> Option<Action> {
        let flow = self.flows.entry(packet.flow).or_default();
        flow.seen.resize(self.rules.len(), 0);
        let was_closed = std::mem::replace(&mut flow.window_closed, packet.window == 0);
        for class in Class::ALL {
            if class.holds(packet, was_closed) {
                *self.report.packets.entry(class).or_default() += 1;
            }
        }
        let mut chosen = None;
        for (number, rule) in self.rules.iter().enumerate() {
            if !rule.class.holds(packet, was_closed) {
                continue;
            }
            flow.seen[number] += 1;
            let selected = match rule.select {
                // Drawn for every packet of the class: what one rule does must not shift what another one draws.
                Select::Share(parts) => self.random.below(MILLION as usize) < parts as usize,
                Select::Nth(first, last) => (first..=last).contains(&flow.seen[number]),
            };
            if selected && chosen.is_none() {
                chosen = Some(rule.action);
                self.report.rules[number].1 += 1;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::packet::tests::frame;

    const ACK: u8 = 0x10;

    fn path(rules: &[&str]) -> Path {
        Path::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), 1)
    }

    /// Sends data packets of these lengths; the lengths that come out.
    fn pass(path: &mut Path, now: Instant, lengths: &[usize]) -> Vec<usize> {
        let mut out = Vec::new();
        for &length in lengths {
            path.take(now, &frame(1, ACK, 1, length), &mut out);
        }
        out.iter().map(|frame| frame.len() - 54).collect()
    }

    #[test]
    fn the_second_data_packet_of_each_connection_is_lost_once() {
        let mut path = path(&["in/data/nth=2-2/drop"]);
        let now = Instant::now();
        assert_eq!(pass(&mut path, now, &[1, 0, 2, 2, 3]), [1, 0, 2, 3]);
        let mut out = Vec::new();
        for _ in 0..3 {
            path.take(now, &frame(9, ACK, 1, 1), &mut out);
        }
        assert_eq!(out.len(), 2);
        assert_eq!(path.report().rules[0].1, 2);
        assert_eq!(path.report().received, 8);
    }

    #[test]
    fn others_overtake_a_packet_that_is_held_and_a_short_wait_ends_it_too() {
        let mut path = path(&["in/data/nth=1-1/after=2"]);
        let now = Instant::now();
        assert_eq!(pass(&mut path, now, &[1, 2, 3, 4]), [2, 3, 1, 4]);
        let mut out = Vec::new();
        path.take(now, &frame(9, ACK, 1, 5), &mut out);
        assert!(out.is_empty());
        assert_eq!(path.next_due(), Some(now + OVERTAKE_WAIT));
        path.release(now + OVERTAKE_WAIT, &mut out);
        assert_eq!((out.len(), path.next_due()), (1, None));
    }

    #[test]
    fn a_delayed_packet_waits_for_its_time_whatever_passes() {
        let mut path = path(&["in/data/nth=1-1/delay=50"]);
        let now = Instant::now();
        assert_eq!(pass(&mut path, now, &[1, 2, 3]), [2, 3]);
        assert_eq!(
            pass(&mut path, now + Duration::from_millis(50), &[4]),
            [4, 1]
        );
    }

    #[test]
    fn the_first_rule_that_takes_a_packet_decides_alone() {
        let mut path = path(&["in/data/nth=1-2/twice", "in/data/nth=2-3/drop"]);
        assert_eq!(
            pass(&mut path, Instant::now(), &[1, 2, 3, 4]),
            [1, 1, 2, 2, 4]
        );
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says_and_repeats_with_its_seed() {
        let lengths = vec![1; 10_000];
        let now = Instant::now();
        let mut first = path(&["in/any/share=10000/drop"]);
        let passed = pass(&mut first, now, &lengths).len();
        assert!((9_850..9_950).contains(&passed), "{passed}");
        let mut again = path(&["in/any/share=10000/drop"]);
        assert_eq!(pass(&mut again, now, &lengths).len(), passed);
    }

    #[test]
    fn a_window_that_opens_again_is_recognised() {
        let mut path = path(&["out/window-opened/nth=1-1/drop"]);
        let mut out = Vec::new();
        for window in [5, 0, 0, 5, 5] {
            path.take(Instant::now(), &frame(1, ACK, window, 0), &mut out);
        }
        assert_eq!(out.len(), 4);
        assert_eq!(path.report().packets[&Class::WindowClosed], 2);
    }
}
