//! How connections end: once, in time, and for a reason.

use super::conn::Conn;
use super::{Rule, Watch, given};
use crate::sabotage::Sabotage;
use crate::setting::Class;
use common::flow::Nanos;
use common::packet::Endpoint;
use session::{Outcome, SessionEnd};

impl Watch {
    pub fn announced(&mut self, client: Endpoint) {
        *self.announced.entry(client).or_default() += 1;
    }

    pub fn retired(&mut self, now: Nanos, client: Endpoint) {
        if self.sabotaged(Sabotage::KeepRoute) && self.ends.len() == 4 {
            return;
        }
        self.announced.remove(&client);
        if let Some(conn) = self.conns.get_mut(&client) {
            conn.ended_at = Some(now);
            if self.scripts[conn.script].client != client {
                self.rested.insert(client, now);
            }
        }
    }

    pub fn ended(&mut self, now: Nanos, end: &SessionEnd) {
        if self.sabotaged(Sabotage::LoseEnd) && self.ends.len() == 3 {
            return;
        }
        let conn = self.live(&end.wire);
        let script = conn.map(|c| c.script);
        let script = script.or_else(|| {
            let begun = Nanos(now.0 - end.lasted.0);
            given::newest(&self.scripts, &self.given, end.client, begun)
        });
        if let Some(i) = script {
            // Which connection is whose cannot be told with flipped sequence numbers.
            if self.honest() {
                self.outlived(now, i, end);
                self.caused(i, end);
            }
        }
        self.ends.push((script, *end));
    }

    fn live(&self, wire: &Endpoint) -> Option<&Conn> {
        self.conns.get(wire).filter(|c| c.ended_at.is_none())
    }

    /// The longest that a session may last: its beginning or its last packet of either side plus the
    /// longest timeout.
    fn outlived(&mut self, now: Nanos, script: usize, end: &SessionEnd) {
        let e = &self.setting.engine;
        let conn = self.live(&end.wire).filter(|c| c.script == script);
        // Packets of a later connection on the tuple count as the session's if their SYN was lost.
        let of_client = self
            .scripts
            .iter()
            .zip(&self.given)
            .filter(|(s, _)| s.client == end.client);
        let last = of_client.map(|(_, g)| g.last_at).max().unwrap_or_default();
        let last = last.max(conn.map_or(Nanos(0), |c| c.active_at));
        // One that took over what another left behind a gap began without a packet.
        let last = last.max(Nanos(now.0 - end.lasted.0));
        // They wait before they count.
        let mut most = e.idle_timeout.max(e.connect_timeout) + e.syn_wait;
        if self.sabotaged(Sabotage::ShortLives) {
            most = Nanos(most.0 / 100);
        }
        // A timer tick, and the simulator's own.
        let slack = Nanos::from_millis(5);
        if end.outcome != Outcome::Shutdown && now > last + most + slack {
            let text = format!(
                "{}: ended {} ms after its last packet",
                end.client,
                now.since(last).0 / 1_000_000
            );
            self.report(Rule::Lifetime, text);
        }
    }

    fn caused(&mut self, script: usize, end: &SessionEnd) {
        let g = &self.given[script];
        let conn = self.live(&end.wire).filter(|c| c.script == script);
        let (fin, rst) = conn.map_or((false, false), |c| (c.target_fin, c.target_rst));
        let s = &self.setting;
        let incomplete =
            s.capture.loss + s.capture.truncate + s.capture.delay + s.capture.reorder > 0;
        let all = end.captured == end.delivered;
        let fine = match end.outcome {
            Outcome::Completed => {
                all && (g.fin || g.went_on_behind(self.scripts[script].stream.len()))
            }
            Outcome::ResetByClient => g.rst || g.superseded,
            Outcome::ResetByTarget | Outcome::Refused => rst,
            Outcome::ClosedByTarget => fin || rst,
            Outcome::Unanswered => conn.is_none_or(|c| !c.answered_syn),
            Outcome::CaptureGap => incomplete,
            Outcome::Shed => s.class != Class::Gentle,
            Outcome::TimedOut => true,
            Outcome::SkippedNoSyn | Outcome::Shutdown => false,
        };
        if !fine {
            self.report(
                Rule::Cause,
                format!("{}: {:?} without a cause, {end:?}", end.client, end.outcome),
            );
        }
    }
}
