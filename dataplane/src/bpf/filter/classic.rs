//! Classic BPF: what libpcap compiles an expression to.
//!
//! Encoding and meaning: include/uapi/linux/bpf_common.h, include/uapi/linux/filter.h, and the
//! interpreter in libpcap's bpf_filter.c, which decides wherever the two leave something open.

/// One instruction, laid out as `struct bpf_insn` of pcap/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClassicInsn {
    /// Class, and by class: size and mode, operation and operand, or what is returned.
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if not.
    pub jf: u8,
    /// Constant: operand, packet offset, scratch word, or how far to jump.
    pub k: u32,
}

const _: () = assert!(size_of::<ClassicInsn>() == 8);

impl ClassicInsn {
    /// `BPF_CLASS`.
    pub(super) const fn class(self) -> u16 {
        self.code & 0x07
    }

    /// `BPF_OP` and `BPF_MISCOP`.
    pub(super) const fn op(self) -> u16 {
        self.code & 0xf0
    }

    /// `BPF_MODE`.
    pub(super) const fn mode(self) -> u16 {
        self.code & 0xe0
    }

    /// True if the second operand is the index register instead of `k`.
    pub(super) const fn uses_x(self) -> bool {
        self.code & 0x08 != 0
    }
}

/// Instruction classes.
pub(super) mod class {
    pub const LD: u16 = 0;
    pub const LDX: u16 = 1;
    pub const ST: u16 = 2;
    pub const STX: u16 = 3;
    pub const ALU: u16 = 4;
    pub const JMP: u16 = 5;
    pub const RET: u16 = 6;
    pub const MISC: u16 = 7;
}

/// Addressing modes of loads.
pub(super) mod mode {
    pub const IMM: u16 = 0x00;
    pub const ABS: u16 = 0x20;
    pub const IND: u16 = 0x40;
    pub const MEM: u16 = 0x60;
    pub const LEN: u16 = 0x80;
    pub const MSH: u16 = 0xa0;
}

/// Scratch words (`BPF_MEMWORDS`).
pub(super) const MEMORY_WORDS: u32 = 16;
/// `BPF_RVAL`: what a return takes its value from.
pub(super) const RET_SOURCE: u16 = 0x18;
/// `BPF_A`: the accumulator.
pub(super) const RET_A: u16 = 0x10;
/// `BPF_TXA`; `BPF_TAX` is 0.
pub(super) const MISC_TXA: u16 = 0x80;
