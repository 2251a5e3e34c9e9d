//! The receiving side over a kernel made of queues.

use super::super::frame::RxLosses;
use super::*;
use common::abi::XdpMeta;
use std::collections::{HashMap, VecDeque};

const COOKIE: u32 = 0xc0ff_ee11;

struct FakeKernel {
    memory: HashMap<u32, (Vec<u8>, Option<XdpMeta>)>,
    fill: VecDeque<u32>,
    fill_capacity: usize,
    rx: VecDeque<u32>,
    /// Frames whose packet goes on.
    continued: Vec<u32>,
    fill_empty: u64,
    driver_asleep: bool,
    wakes: usize,
}

impl FakeKernel {
    fn new(fill_capacity: usize) -> Self {
        Self {
            memory: HashMap::new(),
            fill: VecDeque::new(),
            fill_capacity,
            rx: VecDeque::new(),
            continued: Vec::new(),
            fill_empty: 0,
            driver_asleep: false,
            wakes: 0,
        }
    }

    /// A packet arrives.
    fn deliver(&mut self, bytes: &[u8], meta: Option<XdpMeta>) -> bool {
        let Some(frame) = self.fill.pop_front() else {
            self.fill_empty += 1;
            self.driver_asleep = true;
            return false;
        };
        // Without new metadata what an earlier packet left there stays, as in real memory.
        let left = self.memory.get(&frame).and_then(|(_, meta)| *meta);
        self.memory.insert(frame, (bytes.to_vec(), meta.or(left)));
        self.rx.push_back(frame);
        true
    }

    fn held(&self) -> usize {
        self.fill.len() + self.rx.len()
    }
}

impl RxRings for FakeKernel {
    type Desc = u32;
    fn receive(&mut self, into: &mut Vec<ReceivedFrame<u32>>) {
        let n = self.rx.len().min(BATCH);
        into.extend(self.rx.drain(..n).map(ReceivedFrame::new));
    }
    fn bytes<'a>(&'a self, frame: &'a ReceivedFrame<u32>) -> &'a [u8] {
        &self.memory[frame.desc()].0
    }
    fn continues(&self, frame: &ReceivedFrame<u32>) -> bool {
        self.continued.contains(frame.desc())
    }
    fn take_meta(&mut self, frame: &ReceivedFrame<u32>, cookie: u32) -> Option<XdpMeta> {
        let meta = &mut self.memory.get_mut(frame.desc())?.1;
        if meta.is_some_and(|m| m.cookie == cookie) {
            meta.take()
        } else {
            None
        }
    }
    fn refill(&mut self, frames: &mut Vec<FreeFrame<u32>>) {
        while self.fill.len() < self.fill_capacity
            && let Some(frame) = frames.pop()
        {
            self.fill.push_back(frame.into_desc());
        }
    }
    fn waiting(&mut self) -> bool {
        !self.rx.is_empty()
    }
    fn wake_driver(&mut self) {
        if self.driver_asleep && !self.fill.is_empty() {
            self.driver_asleep = false;
            self.wakes += 1;
        }
    }
    fn losses(&self) -> RxLosses {
        RxLosses {
            fill_ring_empty: self.fill_empty,
            ..RxLosses::default()
        }
    }
}

fn port(frames: u32, cookie: Option<u32>) -> RxPort<FakeKernel> {
    let free = (0..frames).map(FreeFrame::new).collect();
    RxPort::new(FakeKernel::new(frames as usize), free, cookie)
}

const fn meta(at: u64, frame_len: u32, cookie: u32) -> XdpMeta {
    XdpMeta {
        captured_ns: at,
        frame_len,
        cookie,
    }
}

#[test]
fn all_frames_go_to_the_kernel_at_first_and_after_each_batch() {
    let mut port = port(128, None);
    assert_eq!((port.rings.fill.len(), port.held()), (128, 0));
    for n in 0..100u8 {
        assert!(port.rings.deliver(&[n; 60], None));
    }
    let mut seen = Vec::new();
    assert!(!port.arm(), "frames wait");
    let n = port.recv(&mut |batch| seen.extend(batch.iter().map(|c| c.bytes[0])));
    assert_eq!(n, BATCH);
    assert_eq!((port.rings.held(), port.held()), (128, 0));
    assert_eq!(
        port.recv(&mut |batch| seen.extend(batch.iter().map(|c| c.bytes[0]))),
        36
    );
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    assert_eq!(port.recv(&mut |_| panic!("no batch")), 0);
    assert!(port.arm());
}

#[test]
fn metadata_gives_time_and_length_once() {
    let mut port = port(1, Some(COOKIE));
    let mut metas = Vec::new();
    let arrivals = [
        Some(meta(7, 1400, COOKIE)),
        None,
        Some(meta(8, 1400, COOKIE ^ 1)),
    ];
    let before = clock::now();
    for arrival in arrivals {
        assert!(port.rings.deliver(&[0; 60], arrival));
        assert_eq!(port.recv(&mut |batch| metas.push(batch[0].meta)), 1);
    }
    assert_eq!((metas[0].at, metas[0].frame_len), (Nanos(7), 1400));
    // The frame still had the bytes of the first packet's metadata, but no longer its cookie.
    assert!(metas[1].at >= before && metas[2].at >= before, "{metas:?}");
    assert_eq!((metas[1].frame_len, metas[2].frame_len), (60, 60));
}

#[test]
fn in_a_flood_the_time_of_one_frame_is_that_of_its_neighbours() {
    let mut port = port(16, Some(COOKIE));
    let mut times = Vec::new();
    let mut batch = |port: &mut RxPort<FakeKernel>, stamps: &[u64]| {
        for at in stamps {
            let meta = (*at != 0).then(|| meta(*at, 60, COOKIE));
            assert!(port.rings.deliver(&[0; 60], meta));
        }
        times.clear();
        port.recv(&mut |batch| times.extend(batch.iter().map(|c| c.meta.at)));
        times.clone()
    };
    let first = batch(&mut port, &[0, 0, 5, 0, 0, 8, 0]);
    assert_eq!(first, [5, 5, 5, 5, 5, 8, 8].map(Nanos));
    let before = clock::now();
    let guessed = batch(&mut port, &[0, 0]);
    assert!(guessed[0] >= before && guessed[0] == guessed[1]);
    // What the kernel stamped while that batch was read does not go back in time.
    let late = batch(&mut port, &[guessed[0].0 - 1, guessed[0].0 + 1]);
    assert_eq!(late, [guessed[0], Nanos(guessed[0].0 + 1)]);
    let mut without = 0;
    port.counters(&mut |name, value| {
        if name == "rx_without_meta" {
            without = value;
        }
    });
    assert_eq!(without, 2);
}

#[test]
fn metadata_is_not_believed_to_shorten_a_frame() {
    let mut port = port(1, Some(COOKIE));
    assert!(port.rings.deliver(&[0; 60], Some(meta(7, 10, COOKIE))));
    port.recv(&mut |batch| assert_eq!(batch[0].meta.frame_len, 60));
}

#[test]
fn a_driver_that_fell_asleep_on_an_empty_fill_ring_is_woken() {
    let mut port = port(2, None);
    while port.rings.deliver(&[0; 60], None) {}
    assert_eq!(port.rings.wakes, 0);
    assert_eq!(port.recv(&mut |_| ()), 2);
    assert_eq!(port.rings.wakes, 1);
    port.rings.driver_asleep = true;
    assert_eq!(port.recv(&mut |_| ()), 0);
    assert_eq!(port.rings.wakes, 2, "also when nothing was received");
    let mut empty = 0;
    port.counters(&mut |name, value| {
        if name == "rx_fill_ring_empty" {
            empty = value;
        }
    });
    assert_eq!(empty, 1);
}

#[test]
fn frames_are_conserved_even_with_a_fill_ring_too_small() {
    const TOTAL: u32 = 200;
    let free = (0..TOTAL).map(FreeFrame::new).collect();
    let mut port = RxPort::new(FakeKernel::new(150), free, Some(COOKIE));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut delivered, mut received) = (0u64, 0u64);
    for step in 0..20_000u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random.is_multiple_of(3) {
            received += port.recv(&mut |_| ()) as u64;
        } else {
            let meta = Some(meta(step, 60, COOKIE));
            for _ in 0..random % 50 {
                delivered += u64::from(port.rings.deliver(&[step as u8; 60], meta));
            }
        }
        assert_eq!(
            port.held() + port.rings.held(),
            TOTAL as usize,
            "step {step}"
        );
    }
    loop {
        let n = port.recv(&mut |_| ()) as u64;
        if n == 0 {
            break;
        }
        received += n;
    }
    assert_eq!(delivered, received);
    let mut names: Vec<u32> = port.rings.fill.iter().copied().collect();
    names.extend(port.returning.iter().map(|f| *f.desc()));
    names.sort_unstable();
    assert_eq!(
        names,
        (0..TOTAL).collect::<Vec<_>>(),
        "each frame exactly once"
    );
}

#[test]
fn a_packet_in_several_frames_comes_whole_with_the_first_ones_metadata() {
    let mut port = port(8, Some(COOKIE));
    for (n, meta) in [
        (1, Some(meta(5, 180, COOKIE))),
        (2, None),
        (3, None),
        (4, Some(meta(6, 60, COOKIE))),
    ] {
        assert!(port.rings.deliver(&[n; 60], meta));
    }
    let frames: Vec<u32> = port.rings.rx.iter().copied().collect();
    port.rings.continued = frames[..2].to_vec();
    let mut seen = Vec::new();
    port.recv(&mut |batch| seen.extend(batch.iter().map(|c| (c.bytes.to_vec(), c.meta.at.0))));
    let whole = [[1; 60], [2; 60], [3; 60]].concat();
    assert_eq!(seen, [(whole, 5), (vec![4; 60], 6)]);
    assert_eq!((port.rings.held(), port.held()), (8, 0));
}
