//! What must hold when a run is over.

use crate::client::{Leave, Manner, must_arrive};
use crate::net::Net;
use crate::sabotage::Sabotage;
use crate::setting::Class;
use crate::target::Target;
use crate::watch::{Rule, Violation, Watch};
use session::{Engine, Outcome};

pub fn verdict(engine: &Engine, target: &Target, net: Net) -> Vec<Violation> {
    let left = !net.is_empty();
    let mut w = net.watch;
    books(&mut w, engine, left);
    reads(&mut w, target, engine);
    arrivals(&mut w, engine);
    w.violations
}

fn books(w: &mut Watch, engine: &Engine, events_left: bool) {
    let mut totals = engine.totals().clone();
    let open = engine.open_sessions();
    if open > 0 || events_left {
        w.report(
            Rule::Wedge,
            format!("{open} sessions open when time ran out"),
        );
        return;
    }
    if w.sabotaged(Sabotage::LoseOutcome) {
        totals.outcomes[Outcome::Completed as usize] -= 1;
    }
    if !totals.balanced() {
        w.report(Rule::Balance, format!("{totals:?}"));
    }
    let memory = engine.buffered_bytes() + usize::from(w.sabotaged(Sabotage::KeepMemory));
    if memory > 0 {
        w.report(Rule::Memory, format!("{memory} bytes not given back"));
    }
    if engine.next_deadline().is_some() || w.sabotaged(Sabotage::KeepTimer) {
        w.report(
            Rule::Timers,
            format!("next at {:?}", engine.next_deadline()),
        );
    }
    if !w.announced.is_empty() {
        let routes = format!("never retired: {:?}", w.announced.keys());
        w.report(Rule::Routes, routes);
    }
    // In class Gentle only connections whose beginning was not captured are not opened.
    let unopened = totals.sessions - w.ends.len() as u64;
    let late = w.scripts.iter().filter(|s| !s.from_syn).count() as u64;
    let most = late * u64::from(w.setting.engine.replicas);
    if w.setting.class == Class::Gentle && unopened > most {
        w.report(
            Rule::Outcome,
            format!("{unopened} sessions not opened, of {most} at most"),
        );
    }
    // Connections that were never opened have an outcome and no end.
    for outcome in Outcome::ALL {
        let ends = w.ends.iter().filter(|(_, e)| e.outcome == outcome).count() as u64;
        let booked = totals.outcome(outcome);
        let unopened = matches!(outcome, Outcome::SkippedNoSyn | Outcome::Shed);
        if ends > booked || (ends < booked && !unopened) {
            w.report(
                Rule::Outcome,
                format!("{booked} {outcome:?} in the books, {ends} seen"),
            );
        }
    }
    let parts = w.ends.iter().map(|(_, e)| e.delivered).sum::<u64>();
    if parts != totals.bytes_delivered {
        let text = format!(
            "sessions delivered {parts}, in all {}",
            totals.bytes_delivered
        );
        w.report(Rule::Balance, text);
    }
    // Captured bytes are counted once for each copy of a session; but a session that went idle is
    // forgotten, and a probe of its client then brings a byte again.
    let most = (w.given_bytes() + w.probe_bytes()) * u64::from(w.setting.engine.replicas);
    // What lies further ahead than a session may buffer counts as of another connection.
    let roomy = w.setting.engine.session_bytes >= 1 << 20;
    let whole = roomy
        && !w.mixes_connections()
        && w.setting.capture.truncate + w.setting.capture.corrupt == 0;
    if whole && totals.bytes_captured > most {
        let text = format!(
            "{} bytes in the books of {most} captured",
            totals.bytes_captured
        );
        w.report(Rule::Balance, text);
    }
}

/// What the target's application read.
fn reads(w: &mut Watch, target: &Target, engine: &Engine) {
    let mut all = 0;
    for (wire, connections) in &target.seen {
        for c in connections {
            let mut read = c.bytes.clone();
            if w.sabotaged(Sabotage::ScrambleRead) && !read.is_empty() {
                read.reverse();
            }
            all += read.len() as u64;
            let begun = w.begun.get(wire).map_or(&[][..], Vec::as_slice);
            let legitimate = read.is_empty()
                || begun
                    .iter()
                    .any(|(i, at)| w.scripts[*i].stream[*at..].starts_with(&read));
            if !legitimate && w.setting.capture.corrupt == 0 {
                w.report(
                    Rule::TargetRead,
                    format!("{wire}: read {} bytes that no client sent so", read.len()),
                );
            }
        }
    }
    if w.sabotaged(Sabotage::ForgetRead) {
        all -= 1;
    }
    let delivered = engine.totals().bytes_delivered;
    let t = &w.setting.target;
    // An application that crashes, or does not read before a reset, has not read all that its TCP took.
    if w.honest() && t.crash.is_none() && t.deaf.is_none() && delivered > all {
        w.report(
            Rule::Phantom,
            format!("{delivered} bytes delivered, {all} read"),
        );
    }
}

/// Sessions that must arrive whole, and all of them.
fn arrivals(w: &mut Watch, engine: &Engine) {
    if w.setting.class != Class::Gentle {
        return;
    }
    let e = w.setting.engine.clone();
    let mut found = Vec::new();
    for (i, s) in w.scripts.iter().enumerate() {
        let mut ends = 0;
        for (_, end) in w.ends.iter().filter(|(script, _)| *script == Some(i)) {
            ends += 1;
            let whole = !s.from_syn || end.captured == s.stream.len() as u64;
            let said = s.manner != Manner::Scan && s.leave != Leave::Vanish;
            let outcome = match end.outcome {
                Outcome::Completed | Outcome::ResetByClient => true,
                // Nothing more came from a client that vanished.
                Outcome::TimedOut => !said,
                _ => false,
            };
            if !whole || end.captured != end.delivered || !outcome {
                found.push(format!(
                    "{} {:?} {:?}: {end:?}",
                    s.client, s.manner, s.leave
                ));
            }
        }
        let selected = e.share.takes(common::flow::flow_hash(s.client));
        let expected = if selected { usize::from(e.replicas) } else { 0 };
        if must_arrive(s, &w.setting) && ends != expected && !(e.ramp && ends == 0) {
            found.push(format!(
                "{} {:?}: {ends} sessions, not {expected}",
                s.client, s.manner
            ));
        }
    }
    for text in found {
        w.report(
            Rule::Undelivered,
            format!(
                "{text}, {} delivered in all",
                engine.totals().bytes_delivered
            ),
        );
    }
}
