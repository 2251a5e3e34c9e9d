//! Ports on devices that next hops move to while workers run.
//!
//! ```text
//!   worker ── want(device) ──▶ thread: egress::open_all ──▶ one mailbox for each worker ── take() ──▶ worker
//! ```
//! Opening a socket allocates and may wait for a busy queue, so it is not done on a worker's thread.

use crate::egress;
use crate::netfilter::RawPath;
use crate::port::Transmit;
use crate::wake::WakerHandle;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// A port and the device that it sends on.
pub type DevicePort = (u32, Box<dyn Transmit>);

#[derive(Default)]
struct Mailbox {
    /// Something is in it: looked at in every loop, without a lock.
    full: AtomicBool,
    ports: Mutex<Vec<DevicePort>>,
}

/// One worker's end.
pub struct PortSupply {
    wanted: Sender<u32>,
    mailbox: Arc<Mailbox>,
}

impl PortSupply {
    /// Asks for a port on the device; all workers get theirs. Does not wait.
    pub fn want(&self, ifindex: u32) {
        // The thread ends only after all of these have gone.
        let _ = self.wanted.send(ifindex);
    }

    /// Ports that were opened since the last call.
    #[inline]
    pub fn take(&self) -> Vec<DevicePort> {
        if !self.mailbox.full.load(Ordering::Relaxed) {
            return Vec::new();
        }
        // Before the lock: what is put in after it is seen by the next call.
        self.mailbox.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.mailbox.ports))
    }
}

/// Starts the thread; one end for each of `wakers`. Devices in `served` have ports already. The thread ends
/// when all ends are dropped.
pub fn start(
    wakers: Vec<WakerHandle>,
    served: Vec<u32>,
    raw: RawPath,
) -> io::Result<Vec<PortSupply>> {
    let (wanted, wishes) = channel();
    let mailboxes: Vec<Arc<Mailbox>> = wakers.iter().map(|_| Arc::default()).collect();
    let ends = mailboxes
        .iter()
        .map(|mailbox| PortSupply {
            wanted: wanted.clone(),
            mailbox: Arc::clone(mailbox),
        })
        .collect();
    std::thread::Builder::new()
        .name("ports".to_owned())
        .spawn(move || serve(&wishes, served, &mailboxes, &wakers, &raw))?;
    Ok(ends)
}

fn serve(
    wishes: &Receiver<u32>,
    mut served: Vec<u32>,
    mailboxes: &[Arc<Mailbox>],
    wakers: &[WakerHandle],
    raw: &RawPath,
) {
    while let Ok(ifindex) = wishes.recv() {
        if served.contains(&ifindex) {
            continue;
        }
        served.push(ifindex);
        let ports = name_of(ifindex)
            .map_err(|error| error.to_string())
            .and_then(|ifname| {
                tracing::info!(
                    ifname,
                    "a target is behind another interface now: raw sockets until its port is open"
                );
                // Copy mode: on an interface that production may use, drivers must not rebuild rings.
                egress::open_all(&ifname, wakers.len(), wakers, Vec::new(), true, raw)
                    .map_err(|error| error.to_string())
            });
        match ports {
            Ok(ports) => {
                for ((mailbox, waker), port) in mailboxes.iter().zip(wakers).zip(ports) {
                    lock(&mailbox.ports).push((ifindex, port));
                    mailbox.full.store(true, Ordering::Release);
                    waker.wake();
                }
            }
            Err(error) => tracing::warn!(
                ifindex,
                error,
                "no port on the interface that a target is behind now: raw sockets serve it"
            ),
        }
    }
}

fn name_of(ifindex: u32) -> io::Result<String> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(index_to_name(any, ifindex)?)
}

fn lock(ports: &Mutex<Vec<DevicePort>>) -> std::sync::MutexGuard<'_, Vec<DevicePort>> {
    // Nothing panics while it is held; if it did, the list would still be one.
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}
