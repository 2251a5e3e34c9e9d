//! The books after every step.

use super::conn::Conn;
use super::{Rule, Watch};
use crate::sabotage::Sabotage;
use common::packet::Endpoint;
use session::Totals;

impl Watch {
    /// The engine has done one step: with a captured packet of `script`, or otherwise.
    pub fn stepped(
        &mut self,
        client: Option<Endpoint>,
        totals: &Totals,
        open: usize,
        memory: usize,
    ) {
        let released = totals.turns_expired > self.books.turns_expired
            || totals.full_duplex > self.books.full_duplex;
        if released {
            self.release(client);
        }
        self.touched.clear();
        for (wire, text) in std::mem::take(&mut self.overtaking) {
            let held = |c: &Conn| !c.released && !self.given[c.script].released;
            if self.conns.get(&wire).is_some_and(held) {
                self.report(Rule::Overtake, text);
            }
        }
        let budget = if self.sabotaged(Sabotage::TinyBudget) {
            100
        } else {
            self.setting.engine.buffer_bytes
        };
        if memory > budget {
            self.report(Rule::Budget, format!("{memory} bytes in use of {budget}"));
        }
        let delivered = totals.bytes_delivered
            + if self.sabotaged(Sabotage::InventDelivery) {
                1 << 40
            } else {
                0
            };
        let undelivered: u64 = totals.bytes_undelivered.iter().sum();
        let outcomes: u64 = totals.outcomes.iter().sum();
        let before = &self.books;
        let growing = [
            (totals.bytes_captured, before.bytes_captured),
            (totals.bytes_delivered, before.bytes_delivered),
            (undelivered, before.bytes_undelivered.iter().sum()),
            (totals.segments_captured, before.segments_captured),
            (totals.segments_sent, before.segments_sent),
            (totals.responses, before.responses),
            (totals.response_bytes, before.response_bytes),
        ];
        let shrunk = growing.iter().any(|(now, before)| now < before);
        if shrunk
            || delivered + undelivered > totals.bytes_captured
            || totals.sessions != outcomes + open as u64
        {
            self.report(
                Rule::Ledger,
                format!("{open} open sessions, shrunk: {shrunk}, {totals:?}"),
            );
        }
        self.books = totals.clone();
    }

    /// Turns were given up: by the connections that this step touched.
    fn release(&mut self, client: Option<Endpoint>) {
        for (wire, conn) in &mut self.conns {
            // One that has more to send may have been let go without room in the window.
            let waits = self.given[conn.script].has(conn.sent_end, conn.sent_end + 1);
            conn.released |= self.touched.contains(wire) || waits && client.is_none();
        }
        for (given, script) in self.given.iter_mut().zip(&self.scripts) {
            given.released |= client == Some(script.client);
        }
    }
}
