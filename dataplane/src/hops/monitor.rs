//! The thread that keeps the table fresh.

use super::path_mtu::PathProbes;
use super::resolve::{Neighbour, Resolution, Resolver};
use super::{HopTable, Missing, NextHop, log_hop};
use crate::netlink::Changes;
use arc_swap::ArcSwap;
use common::packet::Addr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, write};
use rustix::time::Timespec;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Changes come in bursts (an interface going down withdraws all its routes): wait for the burst to end
/// before looking. Longer sends more frames to the old address.
const SETTLE: Duration = Duration::from_millis(5);
/// A look without cause, for what sends no notification, and to have aging neighbours checked. Half of
/// the kernel's default base_reachable_time_ms of 30 s would do; checking costs one ARP request.
const REGULAR: Duration = Duration::from_secs(10);
/// The look after next while a neighbour is unresolved: the kernel probes once a second.
const UNRESOLVED: Duration = Duration::from_secs(1);

pub(super) fn subscribe() -> io::Result<Changes> {
    Changes::subscribe(&[
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_NEIGH,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV4_RULE,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_IPV6_RULE,
    ])
}

/// Handle on the thread; dropping it ends and joins the thread.
pub(super) struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    pub(super) fn start(
        changes: Changes,
        resolver: Resolver,
        targets: Vec<Addr>,
        table: Arc<ArcSwap<HopTable>>,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut watch = Watch {
            changes,
            resolver,
            targets,
            table,
            lost: HashMap::new(),
            probed: HashMap::new(),
            paths: PathProbes::default(),
        };
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("hops".to_owned())
            .spawn(move || watch.run(&signal))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Cannot fail: the counter holds 2^64 - 2 of them.
        let _ = write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the next-hop monitor had panicked");
        }
    }
}

struct Watch {
    changes: Changes,
    resolver: Resolver,
    targets: Vec<Addr>,
    table: Arc<ArcSwap<HopTable>>,
    /// Why targets are unreachable, so that it is logged once.
    lost: HashMap<Addr, String>,
    /// When neighbours were probed last.
    probed: HashMap<Addr, Instant>,
    paths: PathProbes,
}

impl Watch {
    fn run(&mut self, stop: &OwnedFd) {
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut next_look = self.look();
        loop {
            let wait = Timespec {
                tv_sec: next_look.as_secs() as i64,
                tv_nsec: i64::from(next_look.subsec_nanos()),
            };
            let mut fds = [
                PollFd::new(&self.changes, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "next hops are no longer followed");
                    return;
                }
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            if self.changes.drain(&mut buffer) {
                std::thread::sleep(SETTLE);
                self.changes.drain(&mut buffer);
            }
            next_look = self.look();
        }
    }

    /// Resolves everything anew and publishes what changed. Returns when to look again at the latest.
    fn look(&mut self) -> Duration {
        let old = self.table.load_full();
        let mut again = REGULAR;
        let mut entries = Vec::new();
        self.resolver.forget_links();
        for target in self.targets.clone() {
            let known = old.get(target);
            let entry = match self.resolver.resolve(target) {
                Ok(Resolution::Ready { hop, aging }) => {
                    if aging {
                        self.probe_at_times(&neighbour(&hop), REGULAR / 2);
                    }
                    if let Some(soon) = self.paths.probe_at_times(target, &hop) {
                        again = again.min(soon);
                    }
                    self.lost.remove(&target);
                    Ok(hop)
                }
                Ok(Resolution::Pending { neighbour, failed }) => {
                    again = again.min(UNRESOLVED);
                    self.probe_at_times(&neighbour, UNRESOLVED / 2);
                    // The way is the same, only the neighbour is being asked again: its last address is
                    // the best guess, until it was asked in vain. On another way it would be wrong.
                    match known {
                        Some(hop)
                            if !failed
                                && hop.ifindex == neighbour.ifindex
                                && hop.via == neighbour.via =>
                        {
                            Ok(hop.clone())
                        }
                        _ => {
                            // Another way, whose neighbour is being asked for the first time, is no news yet.
                            if failed || known.is_none() && !self.lost.contains_key(&target) {
                                let Neighbour { via, ifname, .. } = &neighbour;
                                self.lose(
                                    target,
                                    format!(
                                        "neighbour {via} on {ifname} does not answer; check that it is up and on that link"
                                    ),
                                );
                            }
                            Err(Missing::Neighbour)
                        }
                    }
                }
                Err(error) => {
                    self.lose(target, error.to_string());
                    if let Some(missing) = error.missing() {
                        Err(missing)
                    } else {
                        // The kernel did not say: as before, and ask again.
                        again = again.min(UNRESOLVED);
                        known.cloned().ok_or(Missing::Route)
                    }
                }
            };
            entries.push((target, entry));
        }
        let table = HopTable::new(entries);
        if table != *old {
            for (target, hop) in table
                .iter()
                .filter(|&(target, hop)| old.get(target) != Some(hop))
            {
                log_hop(target, hop);
            }
            self.table.store(Arc::new(table));
        }
        again
    }

    fn lose(&mut self, target: Addr, reason: String) {
        if self.lost.get(&target) != Some(&reason) {
            tracing::warn!(%target, %reason, "target cannot be reached, its sessions wait and send again");
            self.lost.insert(target, reason);
        }
    }

    fn probe_at_times(&mut self, to: &Neighbour, interval: Duration) {
        let now = Instant::now();
        if self
            .probed
            .get(&to.via)
            .is_none_or(|last| now.duration_since(*last) >= interval)
        {
            self.probed.insert(to.via, now);
            self.resolver.probe(to);
        }
    }
}

fn neighbour(hop: &NextHop) -> Neighbour {
    Neighbour {
        ifindex: hop.ifindex,
        ifname: hop.ifname.clone(),
        via: hop.via,
    }
}
