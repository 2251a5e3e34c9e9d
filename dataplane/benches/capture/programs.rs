//! BPF programs of a few instructions, and BPF_PROG_TEST_RUN with live frames, by raw bpf(2): aya loads
//! none that are not in an object.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const HELPER_REDIRECT: i32 = 23;
const HELPER_REDIRECT_MAP: i32 = 51;
const HELPER_KTIME: i32 = 5;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;
/// Looks at the clock before a wait is given up, two readings of some 20 ns each: longer than any wait
/// here. The verifier walks through all of them, and an attempt with 20,000 ended in its EFAULT.
const LOOKS: i32 = 6_000;
/// Frames at a time: NAPI's budget, so that sender and receive path take turns at that pace.
pub const BATCH: u32 = 64;
/// Sends the frames instead of only running the program on them (BPF_F_TEST_XDP_LIVE_FRAMES).
const LIVE_FRAMES: u32 = 2;

pub const XDP_DROP: i32 = 1;
pub const XDP_PASS: i32 = 2;

/// One instruction (`struct bpf_insn`, little-endian as all machines here).
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (off as u16 as u64) << 16
        | (imm as u32 as u64) << 32
}

const fn mov(dst: u8, imm: i32) -> u64 {
    insn(0xb7, dst, 0, 0, imm)
}

const fn call(helper: i32) -> u64 {
    insn(0x85, 0, 0, 0, helper)
}

const fn load64(dst: u8, from: u8, off: i16) -> u64 {
    insn(0x79, dst, from, off, 0)
}

const fn store64(to: u8, off: i16, src: u8) -> u64 {
    insn(0x7b, to, src, off, 0)
}

const EXIT: u64 = insn(0x95, 0, 0, 0, 0);

/// A loaded program.
pub struct Program(OwnedFd);

impl Program {
    /// XDP with one verdict for everything.
    pub fn xdp(verdict: i32) -> Self {
        Self::load(PROG_TYPE_XDP, &[mov(0, verdict), EXIT])
    }

    /// A classifier that lets everything go on.
    pub fn classifier() -> Self {
        Self::load(PROG_TYPE_SCHED_CLS, &[mov(0, -1), EXIT])
    }

    /// XDP that sends everything out of an interface.
    pub fn redirect(ifindex: u32) -> Self {
        let code = [
            mov(1, ifindex as i32),
            mov(2, 0),
            call(HELPER_REDIRECT),
            EXIT,
        ];
        Self::load(PROG_TYPE_XDP, &code)
    }

    /// The same, but each [`BATCH`] waits for its time, `interval_ns` after that of the one before. What
    /// was waited in all is in `waited`.
    ///
    /// The wait is a loop on the clock: the program runs with softirqs off, so nothing that is to be
    /// measured happens meanwhile.
    pub fn redirect_paced(ifindex: u32, interval_ns: i32, waited: &Waited) -> Self {
        const COUNT: i16 = 0;
        const DUE: i16 = 8;
        const SUM: i16 = 16;
        let fd = waited.0.as_raw_fd();
        let code = [
            // r6 = the state
            insn(0x18, 6, PSEUDO_MAP_VALUE, 0, fd),
            0,
            // if (count++ & (BATCH - 1)) goto redirect
            load64(7, 6, COUNT),
            insn(0xbf, 1, 7, 0, 0),
            insn(0x07, 1, 0, 0, 1),
            store64(6, COUNT, 1),
            insn(0x57, 7, 0, 0, BATCH as i32 - 1),
            insn(0x55, 7, 0, 20, 0),
            // r8 = due + interval; more than 2^24 ns late: a new slot, due now
            load64(8, 6, DUE),
            insn(0x07, 8, 0, 0, interval_ns),
            call(HELPER_KTIME),
            insn(0xbf, 7, 0, 0, 0),
            insn(0xbf, 1, 0, 0, 0),
            insn(0x1f, 1, 8, 0, 0),
            insn(0x65, 1, 0, 1, 1 << 24),
            insn(0x05, 0, 0, 1, 0),
            insn(0xbf, 8, 7, 0, 0),
            store64(6, DUE, 8),
            // for (r9 = 0; r9 < LOOKS; r9++) if (now(), now() >= due) break
            mov(9, 0),
            call(HELPER_KTIME),
            call(HELPER_KTIME),
            insn(0x3d, 0, 8, 2, 0),
            insn(0x07, 9, 0, 0, 1),
            insn(0xa5, 9, 0, -5, LOOKS),
            // waited += now - r7
            insn(0x1f, 0, 7, 0, 0),
            load64(1, 6, SUM),
            insn(0x0f, 1, 0, 0, 0),
            store64(6, SUM, 1),
            // redirect:
            mov(1, ifindex as i32),
            mov(2, 0),
            call(HELPER_REDIRECT),
            EXIT,
        ];
        Self::load(PROG_TYPE_XDP, &code)
    }

    /// XDP that sends everything to the socket of its queue.
    pub fn to_sockets(sockets: &SocketMap) -> Self {
        let fd = sockets.0.as_raw_fd();
        let code = [
            // r2 = ctx->rx_queue_index
            insn(0x61, 2, 1, 16, 0),
            insn(0x18, 1, PSEUDO_MAP_FD, 0, fd),
            0,
            mov(3, XDP_PASS),
            call(HELPER_REDIRECT_MAP),
            EXIT,
        ];
        Self::load(PROG_TYPE_XDP, &code)
    }

    fn load(kind: u32, code: &[u64]) -> Self {
        let expected = if kind == PROG_TYPE_XDP { ATTACH_XDP } else { 0 };
        let attr: [u64; 9] = [
            pair(kind, code.len() as u32),
            code.as_ptr() as u64,
            c"GPL".as_ptr() as u64,
            0,
            0,
            0,
            0,
            0,
            pair(0, expected),
        ];
        Self(new_fd(BPF_PROG_LOAD, &attr))
    }

    /// Attaches an XDP program in driver mode; dropping the descriptor detaches.
    pub fn attach(&self, ifindex: u32) -> OwnedFd {
        let attr: [u64; 6] = [
            pair(self.0.as_raw_fd() as u32, ifindex),
            pair(ATTACH_XDP, XDP_FLAGS_DRV_MODE),
            0,
            0,
            0,
            0,
        ];
        new_fd(BPF_LINK_CREATE, &attr)
    }

    /// Mean nanoseconds of `repeat` runs on `frame`.
    pub fn nanoseconds(&self, frame: &[u8], repeat: u32) -> u32 {
        let mut attr = self.test_run(frame, repeat);
        check(BPF_PROG_TEST_RUN, &mut attr);
        (attr[4] >> 32) as u32
    }

    /// Sends `repeat` copies of `frame` through the program, [`BATCH`] at a time, from the caller's CPU
    /// and namespace. Returns the mean nanoseconds between two of them.
    pub fn send(&self, frame: &[u8], repeat: u32) -> u32 {
        let mut attr = self.test_run(frame, repeat);
        attr[8] = pair(LIVE_FRAMES, 0);
        attr[9] = u64::from(BATCH);
        check(BPF_PROG_TEST_RUN, &mut attr);
        (attr[4] >> 32) as u32
    }

    fn test_run(&self, frame: &[u8], repeat: u32) -> [u64; 10] {
        [
            pair(self.0.as_raw_fd() as u32, 0),
            pair(frame.len() as u32, 0),
            frame.as_ptr() as u64,
            0,
            pair(repeat, 0),
            0,
            0,
            0,
            0,
            0,
        ]
    }
}

/// State of a paced program: packets, time of the next batch, nanoseconds waited.
pub struct Waited(OwnedFd);

impl Waited {
    /// Zero.
    pub fn new() -> Self {
        let attr: [u64; 3] = [pair(MAP_TYPE_ARRAY, 4), pair(24, 1), 0];
        Self(new_fd(BPF_MAP_CREATE, &attr))
    }

    /// Nanoseconds waited.
    pub fn ns(&self) -> u64 {
        let (key, mut value) = (0u32, [0u64; 3]);
        let mut attr: [u64; 4] = [
            self.0.as_raw_fd() as u64,
            &raw const key as u64,
            value.as_mut_ptr() as u64,
            0,
        ];
        check(BPF_MAP_LOOKUP_ELEM, &mut attr);
        value[2]
    }
}

/// An XSKMAP with the sockets of queues.
pub struct SocketMap(OwnedFd);

impl SocketMap {
    /// With the socket of queue 0.
    pub fn new(socket: RawFd) -> Self {
        let attr: [u64; 3] = [pair(MAP_TYPE_XSKMAP, 4), pair(4, 1), 0];
        let map = new_fd(BPF_MAP_CREATE, &attr);
        let (key, value) = (0u32, socket);
        let mut attr: [u64; 4] = [
            map.as_raw_fd() as u64,
            &raw const key as u64,
            &raw const value as u64,
            0,
        ];
        check(BPF_MAP_UPDATE_ELEM, &mut attr);
        Self(map)
    }
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn new_fd(command: libc::c_long, attr: &[u64]) -> OwnedFd {
    // SAFETY: the kernel only reads the attribute, of the size given, and what it points to, which lives
    // in the callers; the commands return a new descriptor.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr));
        assert!(
            fd >= 0,
            "bpf command {command}: {}",
            std::io::Error::last_os_error()
        );
        OwnedFd::from_raw_fd(fd as RawFd)
    }
}

fn check(command: libc::c_long, attr: &mut [u64]) {
    // SAFETY: the attribute has the size given; the kernel writes results into it and only reads what it
    // points to, which lives in the callers.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    assert!(
        result >= 0,
        "bpf command {command}: {}",
        std::io::Error::last_os_error()
    );
}
