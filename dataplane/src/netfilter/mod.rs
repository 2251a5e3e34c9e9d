//! What this host's netfilter does to packets of the raw-socket path.
//!
//! ```text
//!   RawTx ── a connection began ──▶ RawPath ──▶ thread, once a second while there is something to look at:
//!                                                 conntrack entry of the connection: rewritten by NAT?
//!                                                 conntrack statistics: table full?
//!                                                 └──▶ log, once per change; counters in the report
//! ```
//! AF_XDP frames pass netfilter by. Packets of raw sockets go through OUTPUT and POSTROUTING: a rule that
//! drops them shows as EPERM, but one that changes their addresses shows nowhere: the target answers
//! somebody else, and every session is unanswered.

mod conntrack;
mod stat;

use crate::port::CounterSink;
use common::packet::Endpoint;
use conntrack::{Conntrack, Tuple};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Between two looks. An entry without an answer lives for two minutes (nf_conntrack_tcp_timeout_syn_sent).
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What all raw sockets of a run share. Cloning it shares it.
#[derive(Clone, Default)]
pub struct RawPath(Arc<Shared>);

#[derive(Default)]
struct Shared {
    started: AtomicBool,
    /// A connection that began lately, if none is waiting to be looked at.
    begun: Mutex<Option<Tuple>>,
    looked_at: AtomicU64,
    rewritten: AtomicU64,
    /// Packets that conntrack dropped, on the whole host.
    conntrack_drops: AtomicU64,
    reported: AtomicBool,
}

impl RawPath {
    /// Notes a connection. Called once per flush that began one.
    pub(crate) fn began(&self, from: Endpoint, to: Endpoint) {
        if let Ok(mut begun) = self.0.begun.try_lock() {
            begun.get_or_insert(Tuple { from, to });
        }
        if !self.0.started.swap(true, Ordering::Relaxed) {
            let shared = Arc::downgrade(&self.0);
            let thread = std::thread::Builder::new()
                .name("netfilter".to_owned())
                .spawn(move || watch(&shared));
            if let Err(error) = thread {
                tracing::warn!(%error, "netfilter is not watched");
            }
        }
    }

    /// Reports, by whichever port is asked first: the figures are of all together.
    pub(crate) fn counters(&self, sink: CounterSink<'_>) {
        let shared = &*self.0;
        if !shared.started.load(Ordering::Relaxed) || shared.reported.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        sink("tx_nat_connections_checked", get(&shared.looked_at));
        sink("tx_nat_connections_rewritten", get(&shared.rewritten));
        sink("tx_conntrack_drops", get(&shared.conntrack_drops));
    }
}

fn watch(shared: &Weak<Shared>) {
    let mut conntrack = Conntrack::open()
        .inspect_err(|error| tracing::debug!(%error, "conntrack cannot be asked"))
        .ok();
    let mut before = stat::Stat::now();
    let (mut was_rewritten, mut was_full) = (None, false);
    loop {
        std::thread::sleep(LOOK_EVERY);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let tuple = shared
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (Some(tuple), Some(conntrack)) = (tuple, &mut conntrack) {
            match conntrack.wire_tuple(&tuple) {
                Ok(Some(wire)) => {
                    shared.looked_at.fetch_add(1, Ordering::Relaxed);
                    let rewritten = wire != tuple;
                    if rewritten {
                        shared.rewritten.fetch_add(1, Ordering::Relaxed);
                    }
                    if was_rewritten != Some(rewritten) {
                        say_nat(&tuple, &wire, was_rewritten.is_some());
                        was_rewritten = Some(rewritten);
                    }
                }
                // Conntrack is off, or told not to track it: NAT cannot happen any more.
                Ok(None) => {
                    if was_rewritten == Some(true) {
                        say_nat(&tuple, &tuple, true);
                    }
                    was_rewritten = None;
                }
                Err(error) => tracing::debug!(%error, "conntrack did not answer"),
            }
        }
        let now = stat::Stat::now();
        let (dropped, evicted) = now.since(&before);
        before = now;
        shared.conntrack_drops.fetch_add(dropped, Ordering::Relaxed);
        let full = dropped + evicted > 0;
        if full && !was_full {
            tracing::warn!(
                dropped,
                evicted,
                "the conntrack table is full, it drops packets of new connections or forgets old ones: raise \
                 net.netfilter.nf_conntrack_max, or except the replay with `notrack` (docs/operations.md)"
            );
        }
        was_full = full;
    }
}

fn say_nat(sent: &Tuple, wire: &Tuple, before: bool) {
    if sent == wire {
        if before {
            tracing::info!("NAT of this host no longer rewrites what raw sockets send");
        }
        return;
    }
    tracing::warn!(
        sent = %sent,
        rewritten = %wire,
        "NAT of this host rewrites what raw sockets send, the target answers another address than the client's: except the \
         replay from the rule, or from tracking (`nft add rule ... notrack`, docs/operations.md)"
    );
}
