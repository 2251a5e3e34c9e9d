//! What the BPF tests share.
//!
//! ```text
//!   cases.rs     packets that every program is tried on
//!   foreign.rs   other people's programs
//!   frames.rs    bytes of test packets, good and bad
//!   ring.rs      the tap's ring
//!   raw.rs       programs from instructions, and runs of them
//!   programs.rs  the built objects, BPF_PROG_TEST_RUN, counters
//!   netns.rs     network namespaces with veth pairs
//!   sink.rs      a socket for redirected packets
//!   wire.rs      raw frames onto them
//! ```
#![expect(dead_code, reason = "each test binary uses its own part")]

pub mod cases;
pub mod foreign;
pub mod frames;
pub mod netns;
pub mod programs;
pub mod raw;
pub mod ring;
pub mod sink;
pub mod wire;

/// Every test here loads BPF programs.
pub fn privileged() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test loads BPF programs, which needs root: run it with `cargo xtask test`"
    );
}

/// Bytes as people read them in a failure.
pub fn hexdump(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let _ = write!(out, "\n  {:04x} ", row * 16);
        for byte in chunk {
            let _ = write!(out, " {byte:02x}");
        }
    }
    out
}

/// A small deterministic generator (xorshift64*, Marsaglia and Vigna): failures repeat.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform enough below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}
