//! AF_XDP sockets: one per (interface, queue), with one UMEM.
//!
//! ```text
//!   open ─▶ Socket ─┬─ rx: AfXdpRx (Capture)   fill ring + RX ring,        3/4 of the frames
//!                   └─ tx: AfXdpTx (Transmit)  TX ring + completion ring,  1/4 of the frames
//!
//!   frame.rs   ownership of frames, what is needed of a ring
//!   rx.rs tx.rs  the algorithms, over any rings (tested without a kernel)
//!   rings.rs   xsk-rs behind those traits;   region.rs   the bytes of the UMEM
//! ```
//! The halves share the socket: it closes, and its rings are unmapped, when both are dropped. Drop them
//! before the XDP program that redirects to them is detached; the other order has crashed a guest kernel
//! at the next attach. No XDP program is loaded here (libxdp's own is switched off): put
//! [`AfXdpRx::as_raw_fd`] into an XSKMAP.
//!
//! A packet larger than a frame's room (2048 - 256 bytes) comes in several frames (`XDP_USE_SG`, Linux 6.6)
//! and is put together by joined.rs. Not with zero-copy on an interface whose MTU fits a frame: no such
//! packet comes from its wire, and most drivers can do either only. Drivers that tell their card the size of
//! buffers in whole KiB get larger frames with zero-copy (`zero_copy_frames`). Where several frames cannot be
//! received the kernel drops such a packet and counts it as `rx_dropped`.

mod frame;
mod joined;
mod region;
mod rings;
mod rx;
mod tx;

use crate::iface::Interface;
use crate::port::{Capture, CounterSink, Transmit};
use common::flow::Captured;
use frame::FreeFrame;
use region::Region;
use rings::{XskRx, XskTx};
use rustix::io::Errno;
use rustix::net::sockopt::xdp_options;
use rustix::net::xdp::XdpOptionsFlags;
use rx::RxPort;
use std::error::Error as _;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};
use tx::TxPort;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as InterfaceName, LibxdpFlags, QueueSize, SocketConfig,
    UmemConfig,
};
use xsk_rs::umem::Umem;

/// How long a busy queue is retried: after a close the kernel frees the queue only after an RCU grace
/// period, seen to take up to a second.
const BUSY_RETRY: Duration = Duration::from_secs(2);
/// First pause between retries; doubles up to [`BUSY_PAUSE_MAX`].
const BUSY_PAUSE: Duration = Duration::from_millis(5);
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Frames and ring entries by default: 16 MiB with 2 KiB frames stay in cache and cover 1.6 ms at
/// 5 Mpps; measured without loss, where 4096 lost 2 % and 64 MiB halved the rate of large packets.
pub const FRAMES: u32 = 8192;
/// Bytes per frame by default: an MTU of 1500 with the kernel's 256 bytes in front.
pub const FRAME_BYTES: u32 = 2048;
/// The largest that the kernel takes: a page.
const FRAME_BYTES_MAX: u32 = 4096;
/// Ring size of a half that is not wanted; the kernel allows nothing smaller than 1.
const UNUSED_RING: u32 = 64;
/// What the kernel keeps free in front of a received packet (`XDP_PACKET_HEADROOM`).
const HEADROOM_BYTES: u32 = 256;
/// Ethernet with two VLAN tags, which the MTU does not count.
const LINK_HEADER_BYTES: u32 = 22;

/// What to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Interface.
    pub ifname: String,
    /// Queue on it, for receiving and for sending.
    pub queue: u32,
    /// Frames of the UMEM, at least 64. With both halves, three quarters are for receiving.
    pub frames: u32,
    /// Bytes per frame: 2048 or 4096.
    pub frame_bytes: u32,
    /// Receive half wanted.
    pub rx: bool,
    /// Transmit half wanted.
    pub tx: bool,
    /// Never zero-copy: for production interfaces (zero-copy makes drivers rebuild their queues), for
    /// generic XDP, and for queues that an attach added.
    pub force_copy: bool,
    /// The program writes [`common::abi::XdpMeta`] with this cookie in front of frames.
    pub meta_cookie: Option<u32>,
}

impl OpenOptions {
    /// [`FRAMES`] frames of [`FRAME_BYTES`], no half chosen yet.
    pub fn new(ifname: &str, queue: u32) -> Self {
        Self {
            ifname: ifname.to_owned(),
            queue,
            frames: FRAMES,
            frame_bytes: FRAME_BYTES,
            rx: false,
            tx: false,
            force_copy: false,
            meta_cookie: None,
        }
    }
}

/// An open socket.
pub struct Socket {
    /// Receive half, if wanted.
    pub rx: Option<AfXdpRx>,
    /// Transmit half, if wanted.
    pub tx: Option<AfXdpTx>,
    /// The driver sends and receives without copying.
    pub zero_copy: bool,
    /// Why it does not receive so though it was allowed to.
    pub zero_copy_refused: Option<std::io::Error>,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AfXdpError {
    /// Options that no kernel accepts.
    #[error("cannot open AF_XDP on {ifname} queue {queue}: got {what}")]
    Options {
        /// Interface.
        ifname: String,
        /// Queue.
        queue: u32,
        /// Value got and expected.
        what: String,
    },
    /// No such interface.
    #[error("cannot open AF_XDP on {ifname}: no such interface")]
    NoInterface {
        /// Interface.
        ifname: String,
    },
    /// The queue number is too high.
    #[error(
        "cannot open AF_XDP on {ifname} queue {queue}: the kernel does not accept it (EINVAL), \
         expected a queue that exists (ethtool -l {ifname})"
    )]
    NoQueue {
        /// Interface.
        ifname: String,
        /// Queue.
        queue: u32,
    },
    /// Another AF_XDP socket holds the queue, for longer than the retries took.
    #[error(
        "AF_XDP queue {queue} of {ifname} is in use by another program; stop it or choose another queue"
    )]
    Busy {
        /// Interface.
        ifname: String,
        /// Queue.
        queue: u32,
    },
    /// Capabilities missing.
    #[error(
        "not allowed to open AF_XDP on {ifname}: CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK are \
         needed; run as root or grant them"
    )]
    Permission {
        /// Interface.
        ifname: String,
    },
    /// Anything else.
    #[error("cannot open AF_XDP on {ifname} queue {queue}: {what}: {source}")]
    Os {
        /// Interface.
        ifname: String,
        /// Queue.
        queue: u32,
        /// Step that failed.
        what: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// Receive half.
pub struct AfXdpRx {
    port: RxPort<XskRx>,
    queue: u32,
}

/// Transmit half.
pub struct AfXdpTx {
    port: TxPort<XskTx>,
    queue: u32,
    zero_copy: bool,
}

/// Opens a socket on one queue. A busy queue is retried for two seconds. Needs CAP_NET_RAW and, for the
/// memory, CAP_IPC_LOCK or a sufficient RLIMIT_MEMLOCK.
pub fn open(options: &OpenOptions) -> Result<Socket, AfXdpError> {
    let deadline = Instant::now() + BUSY_RETRY;
    let mut pause = BUSY_PAUSE;
    loop {
        match open_some_way(options) {
            Err(AfXdpError::Busy { .. }) if Instant::now() + pause < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(BUSY_PAUSE_MAX);
            }
            answer => return answer,
        }
    }
}

/// Zero-copy if allowed and possible, else several frames a packet, which copies, else neither.
fn open_some_way(options: &OpenOptions) -> Result<Socket, AfXdpError> {
    let copy = if options.force_copy {
        BindFlags::XDP_COPY
    } else {
        // Without XDP_COPY and XDP_ZEROCOPY the kernel tries zero-copy and falls back by itself
        // (net/xdp/xsk_buff_pool.c, xp_assign_dev).
        BindFlags::empty()
    };
    if !options.rx {
        return open_once(options, copy);
    }
    let mut refused = None;
    if !options.force_copy {
        let interface = Interface::by_name(&options.ifname);
        let mtu = interface.as_ref().map_or(0, |i| i.mtu);
        let driver = interface.ok().and_then(|i| i.driver());
        let (frame_bytes, fits) = zero_copy_frames(
            driver.as_deref(),
            mtu + LINK_HEADER_BYTES,
            options.frame_bytes,
        );
        let several = if fits {
            BindFlags::empty()
        } else {
            BindFlags::XDP_USE_SG
        };
        let larger = OpenOptions {
            frame_bytes,
            ..options.clone()
        };
        match open_once(&larger, BindFlags::XDP_ZEROCOPY | several) {
            // The driver cannot; what else is wrong the next try will tell as well.
            Err(AfXdpError::Os { source, .. }) => refused = Some(source),
            Err(AfXdpError::NoQueue { .. }) => refused = Some(Errno::INVAL.into()),
            answer => return answer,
        }
    }
    let opened = match open_once(options, BindFlags::XDP_COPY | BindFlags::XDP_USE_SG) {
        // An unknown flag to kernels before 6.6.
        Err(AfXdpError::NoQueue { .. }) => open_once(options, BindFlags::XDP_COPY),
        answer => answer,
    };
    opened.map(|socket| Socket {
        zero_copy_refused: refused,
        ..socket
    })
}

/// Bytes of a frame for packets of up to `packet_bytes`, and whether these fit one.
///
/// Some cards are told the size of a buffer in KiB, and their drivers round what the kernel leaves of a frame down
/// (igb_setup_srrctl, igc_configure_rx_ring, ixgbe_configure_srrctl: `>> SRRCTL_BSIZEPKT_SHIFT`): of 2 KiB without
/// 256 bytes remains 1 KiB, and the card cuts an ordinary packet in two.
fn zero_copy_frames(driver: Option<&str>, packet_bytes: u32, frame_bytes: u32) -> (u32, bool) {
    let whole_kib = matches!(driver, Some("igb" | "igc" | "ixgbe"));
    let room = |frame_bytes: u32| {
        let room = frame_bytes.saturating_sub(HEADROOM_BYTES);
        if whole_kib { room & !1023 } else { room }
    };
    let frame_bytes = if whole_kib && packet_bytes > room(frame_bytes) {
        FRAME_BYTES_MAX
    } else {
        frame_bytes
    };
    (frame_bytes, packet_bytes <= room(frame_bytes))
}

fn open_once(options: &OpenOptions, how: BindFlags) -> Result<Socket, AfXdpError> {
    let bad = |what: String| AfXdpError::Options {
        ifname: options.ifname.clone(),
        queue: options.queue,
        what,
    };
    let frames = NonZeroU32::new(options.frames)
        .filter(|n| (64..=1 << 20).contains(&n.get()))
        .ok_or_else(|| bad(format!("{} frames, expected 64 to 1048576", options.frames)))?;
    let frame_size = FrameSize::new(options.frame_bytes)
        .ok()
        .filter(|_| matches!(options.frame_bytes, 2048 | 4096))
        .ok_or_else(|| {
            bad(format!(
                "{} bytes per frame, expected 2048 or 4096",
                options.frame_bytes
            ))
        })?;
    if !options.rx && !options.tx {
        return Err(bad(
            "neither a receive nor a transmit half, expected one or both".to_owned(),
        ));
    }
    let tx_frames = match (options.rx, options.tx) {
        (true, true) => options.frames / 4,
        (false, true) => options.frames,
        (_, false) => 0,
    };
    let rx_frames = options.frames - tx_frames;
    let ring = |frames: u32| {
        let size = frames.max(UNUSED_RING).next_power_of_two();
        QueueSize::new(size).map_err(|_| bad(format!("a ring of {size} entries")))
    };
    let (rx_ring, tx_ring) = (ring(rx_frames)?, ring(tx_frames)?);

    let umem_config = UmemConfig::builder()
        .frame_size(frame_size)
        .fill_queue_size(rx_ring)
        .comp_queue_size(tx_ring)
        .build()
        .map_err(|e| bad(e.to_string()))?;
    let (umem, mut descs) = Umem::new(umem_config, frames, false)
        .map_err(|e| failure(options, "allocating frames", e.source(), &e.to_string()))?;
    let region = || {
        Region::new(umem.clone(), &descs, options.frame_bytes as usize)
            .ok_or_else(|| bad("no memory for frames".to_owned()))
    };
    let (rx_region, tx_region) = (region()?, region()?);

    let config = SocketConfig::builder()
        .rx_queue_size(rx_ring)
        .tx_queue_size(tx_ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | how)
        .build();
    let interface: InterfaceName = options
        .ifname
        .parse()
        .map_err(|_| AfXdpError::NoInterface {
            ifname: options.ifname.clone(),
        })?;
    // SAFETY: the UMEM is new, so this is its first socket, and no XDP program is loaded.
    let opened = unsafe { xsk_rs::Socket::new(config, &umem, &interface, options.queue) };
    let (tx_queue, rx_queue, rings) =
        opened.map_err(|e| failure(options, "binding", e.source(), &e.to_string()))?;
    let (fill, completion) = rings.ok_or_else(|| {
        bad("no fill ring, expected one for the first socket of a UMEM".to_owned())
    })?;
    // SAFETY: the queues keep the socket open.
    let fd = unsafe { BorrowedFd::borrow_raw(rx_queue.fd().as_raw_fd()) };
    let zero_copy =
        xdp_options(fd).is_ok_and(|o| o.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));

    let for_tx = descs.split_off(rx_frames as usize);
    let tx = options.tx.then(|| AfXdpTx {
        port: TxPort::new(
            XskTx::new(
                tx_queue,
                completion,
                tx_region,
                tx_frames.max(UNUSED_RING).next_power_of_two() as usize,
            ),
            for_tx.into_iter().map(FreeFrame::new).collect(),
            format!("{} queue {}", options.ifname, options.queue),
        ),
        queue: options.queue,
        zero_copy,
    });
    let rx = options.rx.then(|| AfXdpRx {
        port: RxPort::new(
            XskRx::new(rx_queue, fill, rx_region),
            descs.into_iter().map(FreeFrame::new).collect(),
            options.meta_cookie,
        ),
        queue: options.queue,
    });
    Ok(Socket {
        rx,
        tx,
        zero_copy,
        zero_copy_refused: None,
    })
}

fn failure(
    options: &OpenOptions,
    step: &str,
    source: Option<&(dyn std::error::Error + 'static)>,
    what: &str,
) -> AfXdpError {
    let errno = source
        .and_then(|s| s.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error);
    let (ifname, queue) = (options.ifname.clone(), options.queue);
    match errno.map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) => AfXdpError::Busy { ifname, queue },
        Some(Errno::NODEV | Errno::NXIO) => AfXdpError::NoInterface { ifname },
        // ENOBUFS: the pages would exceed RLIMIT_MEMLOCK (net/xdp/xdp_umem.c, account_pages).
        Some(Errno::PERM | Errno::ACCESS | Errno::NOBUFS) => AfXdpError::Permission { ifname },
        Some(Errno::INVAL) if step == "binding" => AfXdpError::NoQueue { ifname, queue },
        errno => AfXdpError::Os {
            ifname,
            queue,
            what: format!("{step}: {what}"),
            source: errno.map_or_else(|| std::io::Error::other("unknown"), Into::into),
        },
    }
}

impl AfXdpRx {
    /// Queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }
}

impl AsRawFd for AfXdpRx {
    /// For an XSKMAP. Valid while this half lives.
    fn as_raw_fd(&self) -> RawFd {
        self.port.rings().raw_fd()
    }
}

impl Capture for AfXdpRx {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        self.port.recv(act)
    }

    fn arm(&mut self) -> bool {
        self.port.arm()
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.as_raw_fd()]
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        self.port.counters(sink);
    }
}

impl AfXdpTx {
    /// Queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The driver sends without copying.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }
}

impl Transmit for AfXdpTx {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        self.port.reserve()
    }

    fn commit(&mut self, len: usize) {
        self.port.commit(len);
    }

    fn flush(&mut self) {
        self.port.flush();
    }

    fn busy(&self) -> bool {
        self.port.busy()
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        self.port.counters(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_with_buffers_of_whole_kib_get_larger_frames() {
        let packet = 1500 + LINK_HEADER_BYTES;
        assert_eq!(
            zero_copy_frames(Some("virtio_net"), packet, 2048),
            (2048, true)
        );
        assert_eq!(zero_copy_frames(None, packet, 2048), (2048, true));
        assert_eq!(zero_copy_frames(Some("igb"), packet, 2048), (4096, true));
        assert_eq!(zero_copy_frames(Some("igb"), 1024, 2048), (2048, true));
        assert_eq!(zero_copy_frames(Some("ixgbe"), 9022, 2048), (4096, false));
        assert_eq!(zero_copy_frames(Some("ice"), 9022, 2048), (2048, false));
    }
}
