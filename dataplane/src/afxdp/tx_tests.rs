//! The sending side over a kernel made of queues.

use super::*;
use std::collections::{HashMap, VecDeque};

const FRAME_BYTES: usize = 128;

/// TX ring, device and completion ring. Frames are numbers.
struct FakeKernel {
    memory: HashMap<u32, Vec<u8>>,
    ring: VecDeque<(u32, usize)>,
    ring_capacity: usize,
    device: VecDeque<(u32, usize)>,
    completion: VecDeque<u32>,
    /// What the next kicks answer; when empty, copy mode: 32 frames, EAGAIN if more wait.
    script: VecDeque<(usize, Result<(), Errno>)>,
    kicks: usize,
    wire: Vec<Vec<u8>>,
    copy_mode: bool,
}

impl FakeKernel {
    fn new(frames: u32) -> (Self, Vec<FreeFrame<u32>>) {
        let kernel = Self {
            memory: (0..frames).map(|n| (n, vec![0; FRAME_BYTES])).collect(),
            ring: VecDeque::new(),
            ring_capacity: frames as usize,
            device: VecDeque::new(),
            completion: VecDeque::new(),
            script: VecDeque::new(),
            kicks: 0,
            wire: Vec::new(),
            copy_mode: true,
        };
        (kernel, (0..frames).map(FreeFrame::new).collect())
    }

    fn take(&mut self, most: usize) {
        for _ in 0..most {
            let Some(frame) = self.ring.pop_front() else {
                return;
            };
            self.device.push_back(frame);
        }
    }

    /// The device is done with `n` frames.
    fn complete(&mut self, n: usize) {
        for _ in 0..n {
            let Some((frame, len)) = self.device.pop_front() else {
                return;
            };
            self.wire.push(self.memory[&frame][..len].to_vec());
            self.completion.push_back(frame);
        }
    }

    fn held(&self) -> usize {
        self.ring.len() + self.device.len() + self.completion.len()
    }
}

impl TxRings for FakeKernel {
    type Desc = u32;
    fn buffer<'a>(&'a mut self, frame: &'a mut FreeFrame<u32>) -> &'a mut [u8] {
        self.memory
            .get_mut(frame.desc())
            .expect("a frame of this memory")
    }
    fn submit(&mut self, frames: &mut Vec<FilledFrame<u32>>) {
        if self.ring.len() + frames.len() <= self.ring_capacity {
            self.ring
                .extend(frames.drain(..).map(FilledFrame::into_parts));
        }
    }
    fn reap(&mut self, free: &mut Vec<FreeFrame<u32>>) {
        free.extend(self.completion.drain(..).map(FreeFrame::new));
    }
    fn unsent(&mut self) -> usize {
        self.ring.len()
    }
    fn kick(&mut self) -> Result<(), Errno> {
        self.kicks += 1;
        if let Some((taken, answer)) = self.script.pop_front() {
            self.take(taken);
            return answer;
        }
        if self.copy_mode {
            self.take(32);
            self.complete(32);
            if !self.ring.is_empty() {
                return Err(Errno::AGAIN);
            }
        }
        Ok(())
    }
    fn invalid(&self) -> u64 {
        0
    }
}

fn port(frames: u32) -> TxPort<FakeKernel> {
    let (kernel, free) = FakeKernel::new(frames);
    TxPort::new(kernel, free, "fake".to_owned())
}

fn send(port: &mut TxPort<FakeKernel>, tag: u8) -> bool {
    let Some(buffer) = port.reserve() else {
        return false;
    };
    buffer[0] = tag;
    port.commit(60);
    true
}

fn counter(port: &mut TxPort<FakeKernel>, wanted: &str) -> u64 {
    let mut found = 0;
    port.counters(&mut |name, value| {
        if name == wanted {
            found = value;
        }
    });
    found
}

#[test]
fn frames_wait_for_the_level_or_the_flush() {
    let mut port = port(256);
    for n in 0..FLUSH_LEVEL_FRAMES - 1 {
        assert!(send(&mut port, n as u8));
    }
    assert_eq!(port.rings.kicks, 0);
    assert!(port.busy());
    assert!(send(&mut port, 31));
    assert_eq!(port.rings.kicks, 1, "32 frames are one call");
    assert_eq!(port.rings.wire.len(), 32);
    assert!(!port.busy());
    assert!(send(&mut port, 32));
    port.flush();
    assert_eq!(port.rings.wire.len(), 33);
    let tags: Vec<u8> = port.rings.wire.iter().map(|f| f[0]).collect();
    assert_eq!(tags, (0..33).collect::<Vec<u8>>(), "in order");
    assert!(port.rings.wire.iter().all(|f| f.len() == 60));
}

#[test]
fn an_uncommitted_buffer_is_given_again() {
    let mut port = port(64);
    port.reserve().expect("buffer")[5] = 99;
    let again = port.reserve().expect("buffer");
    assert_eq!(again[5], 99);
    port.commit(60);
    assert_ne!(port.reserve().expect("another buffer")[5], 99);
}

#[test]
fn impossible_lengths_are_counted_and_the_frame_is_kept() {
    let mut port = port(64);
    assert!(port.reserve().is_some());
    port.commit(0);
    port.commit(FRAME_BYTES + 1);
    assert_eq!(counter(&mut port, "tx_bad_length"), 2);
    assert_eq!(port.held(), 64);
    port.commit(FRAME_BYTES);
    port.flush();
    assert_eq!(port.rings.wire.len(), 1);
}

#[test]
fn commit_without_reserve_does_nothing() {
    let mut port = port(64);
    port.commit(60);
    port.flush();
    assert_eq!((port.rings.kicks, port.held()), (0, 64));
}

#[test]
fn eagain_means_call_again() {
    let mut port = port(256);
    port.rings.script = VecDeque::from([(0, Err(Errno::AGAIN)); 2]);
    for n in 0..100 {
        assert!(send(&mut port, n));
    }
    port.flush();
    assert_eq!(port.rings.wire.len(), 100);
    assert_eq!(port.held(), 256);
    assert!(!port.busy());
}

#[test]
fn no_progress_ends_the_flush_and_keeps_the_frames() {
    let mut port = port(64);
    port.rings.script = VecDeque::from([(0, Err(Errno::NOBUFS)); 3]);
    assert!(send(&mut port, 1));
    port.flush();
    assert_eq!(port.rings.kicks, IDLE_KICKS_MAX);
    assert!(port.busy(), "still queued");
    assert_eq!(counter(&mut port, "tx_error_enobufs"), 3);
    port.flush();
    assert_eq!(port.rings.wire.len(), 1);
    assert!(!port.busy());
}

#[test]
fn a_device_that_takes_one_frame_a_call_cannot_hold_the_worker() {
    let mut port = port(1024);
    for n in 0..1000u32 {
        port.rings.script = VecDeque::from([(0, Err(Errno::AGAIN))]);
        assert!(send(&mut port, n as u8));
    }
    port.rings.kicks = 0;
    port.rings.script = VecDeque::from(vec![(1, Err(Errno::BUSY)); 2000]);
    port.flush();
    assert_eq!(port.rings.kicks, KICKS_MAX_PER_FLUSH);
}

#[test]
fn a_device_that_is_gone_lets_the_worker_sleep() {
    let mut port = port(64);
    port.rings.script = VecDeque::from([(0, Err(Errno::NXIO))]);
    assert!(send(&mut port, 1));
    port.flush();
    assert!(!port.busy());
    assert_eq!(counter(&mut port, "tx_error_enxio"), 1);
    // It is back: the next flush sends what waited.
    port.flush();
    assert_eq!(port.rings.wire.len(), 1);
}

#[test]
fn zero_copy_needs_one_call() {
    let mut port = port(64);
    port.rings.copy_mode = false;
    assert!(send(&mut port, 1));
    port.flush();
    assert_eq!(port.rings.kicks, 1);
    port.rings.take(1);
    port.rings.complete(1);
    port.flush();
    assert_eq!(port.rings.kicks, 1, "nothing unsent, nothing to tell");
    assert!(!port.busy());
}

#[test]
fn what_did_not_come_back_is_told() {
    let mut port = port(64);
    port.rings.copy_mode = false;
    (0..5).for_each(|n| assert!(send(&mut port, n)));
    port.flush();
    port.rings.take(3);
    port.rings.complete(1);
    // Committed only: with us.
    assert!(send(&mut port, 5));
    assert_eq!(counter(&mut port, "tx_in_ring"), 2);
    assert_eq!(counter(&mut port, "tx_in_device"), 2);
    port.flush();
    port.rings.take(64);
    port.rings.complete(64);
    assert_eq!(counter(&mut port, "tx_in_ring"), 0);
    assert_eq!(counter(&mut port, "tx_in_device"), 0);
}

#[test]
fn no_frame_left_is_counted_and_recovers() {
    let mut port = port(64);
    port.rings.copy_mode = false;
    let sent = (0..100).filter(|&n| send(&mut port, n)).count();
    assert_eq!(sent, 64);
    assert_eq!(counter(&mut port, "tx_no_frame"), 36);
    port.rings.take(64);
    port.rings.complete(64);
    assert!(
        send(&mut port, 1),
        "completed frames are found without a flush"
    );
}

#[test]
fn frames_are_conserved_whatever_the_kernel_does() {
    const TOTAL: u32 = 96;
    let errors = [
        Ok(()),
        Err(Errno::AGAIN),
        Err(Errno::BUSY),
        Err(Errno::NOBUFS),
        Err(Errno::NETDOWN),
        Err(Errno::INTR),
        Err(Errno::IO),
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n as u64) as usize
    };
    let mut port = port(TOTAL);
    let mut committed = 0u64;
    for step in 0..50_000 {
        match below(8) {
            0..4 => committed += u64::from(send(&mut port, step as u8)),
            4 => port.flush(),
            5 => {
                let n = below(40);
                port.rings.complete(n);
            }
            6 => {
                let answer = (below(40), errors[below(errors.len())]);
                port.rings.script.push_back(answer);
            }
            _ => {
                port.reserve();
            }
        }
        assert_eq!(
            port.held() + port.rings.held(),
            TOTAL as usize,
            "step {step}"
        );
    }
    port.rings.script.clear();
    for _ in 0..10 {
        port.flush();
        port.rings.complete(TOTAL as usize);
    }
    port.flush();
    assert_eq!(port.held(), TOTAL as usize, "all frames come home");
    assert_eq!(
        port.rings.wire.len() as u64,
        committed,
        "each committed frame is sent once"
    );
    assert_eq!(counter(&mut port, "tx_frames"), committed);
    let mut names: Vec<u32> = port.free.iter().map(|f| *f.desc()).collect();
    names.extend(port.reserved.iter().map(|f| *f.desc()));
    names.sort_unstable();
    assert_eq!(
        names,
        (0..TOTAL).collect::<Vec<_>>(),
        "each frame exactly once"
    );
}
