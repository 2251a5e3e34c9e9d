//! eBPF instructions, and an assembler for them with forward labels.
//!
//! Encoding: Documentation/bpf/standardization/instruction-set.rst. Kernels from 5.1 on know all of it
//! (32-bit jumps).

/// One instruction, laid out as the kernel's `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    /// Destination in the low, source in the high four bits (little-endian hosts, as the objects are).
    regs: u8,
    off: i16,
    imm: i32,
}

const _: () = assert!(size_of::<Insn>() == 8);

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// Result of calls and of the program.
pub const R0: Reg = Reg(0);
/// First argument; the context at the start.
pub const R1: Reg = Reg(1);
/// Second argument.
pub const R2: Reg = Reg(2);
/// Third argument.
pub const R3: Reg = Reg(3);
/// Fourth argument.
pub const R4: Reg = Reg(4);
/// Fifth argument.
pub const R5: Reg = Reg(5);
/// Kept by calls, as are the next three.
pub const R6: Reg = Reg(6);
/// Kept.
pub const R7: Reg = Reg(7);
/// Kept.
pub const R8: Reg = Reg(8);
/// Kept.
pub const R9: Reg = Reg(9);
/// Frame pointer.
pub const FP: Reg = Reg(10);

/// Operations of `alu32` and `alu64`.
pub mod alu {
    /// `dst += src`
    pub const ADD: u8 = 0x00;
    /// `dst -= src`
    pub const SUB: u8 = 0x10;
    /// `dst *= src`
    pub const MUL: u8 = 0x20;
    /// `dst /= src`
    pub const DIV: u8 = 0x30;
    /// `dst |= src`
    pub const OR: u8 = 0x40;
    /// `dst &= src`
    pub const AND: u8 = 0x50;
    /// `dst <<= src`
    pub const LSH: u8 = 0x60;
    /// `dst >>= src`
    pub const RSH: u8 = 0x70;
    /// `dst = -dst`
    pub const NEG: u8 = 0x80;
    /// `dst %= src`
    pub const MOD: u8 = 0x90;
    /// `dst ^= src`
    pub const XOR: u8 = 0xa0;
    /// `dst = src`
    pub const MOV: u8 = 0xb0;
}

/// Conditions of jumps, unsigned.
pub mod jump {
    /// Equal.
    pub const EQ: u8 = 0x10;
    /// Greater.
    pub const GT: u8 = 0x20;
    /// Greater or equal.
    pub const GE: u8 = 0x30;
    /// Common bits.
    pub const SET: u8 = 0x40;
    /// Not equal.
    pub const NE: u8 = 0x50;
    /// Less.
    pub const LT: u8 = 0xa0;
    /// Less or equal.
    pub const LE: u8 = 0xb0;
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One byte.
    B,
    /// Two.
    H,
    /// Four.
    W,
    /// Eight.
    DW,
}

impl Size {
    /// Bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B => 1,
            Self::H => 2,
            Self::W => 4,
            Self::DW => 8,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::W => 0x00,
            Self::H => 0x08,
            Self::B => 0x10,
            Self::DW => 0x18,
        }
    }
}

const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU32: u8 = 0x04;
const JMP64: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const MEM: u8 = 0x60;
/// Second operand is a register.
const REG: u8 = 0x08;
const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// `BPF_END | BPF_TO_BE`.
const TO_BE: u8 = 0xd0 | 0x08;
/// `BPF_LD | BPF_IMM | BPF_DW`, two slots.
const LD_IMM64: u8 = 0x18;
/// `BPF_PSEUDO_MAP_FD`.
const PSEUDO_MAP_FD: Reg = Reg(1);

impl Insn {
    const fn new(code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Self {
        Self {
            code,
            regs: dst.0 | src.0 << 4,
            off,
            imm,
        }
    }
}

/// Where a jump goes; placed once, behind all jumps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A constant, sign-extended in 64-bit operations.
    Imm(i32),
}

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

impl From<i32> for Operand {
    fn from(imm: i32) -> Self {
        Self::Imm(imm)
    }
}

/// A jump that the 16 bits of an instruction cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFar;

/// A program that is being written.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    /// Index by label.
    placed: Vec<Option<usize>>,
    /// Jumps and where they go.
    jumps: Vec<(usize, Label)>,
    /// Labels that something jumps to.
    used: Vec<bool>,
}

impl Assembler {
    /// A label to jump to and to place later.
    pub fn label(&mut self) -> Label {
        self.placed.push(None);
        self.used.push(false);
        Label(self.placed.len() - 1)
    }

    /// The next instruction is where `label` goes.
    pub fn place(&mut self, label: Label) {
        self.placed[label.0] = Some(self.insns.len());
    }

    /// True if some jump goes to `label`.
    pub fn is_used(&self, label: Label) -> bool {
        self.used[label.0]
    }

    /// 32-bit arithmetic; the upper half of `dst` becomes zero.
    pub fn alu32(&mut self, op: u8, dst: Reg, src: impl Into<Operand>) {
        self.arithmetic(ALU32, op, dst, src.into());
    }

    /// 64-bit arithmetic.
    pub fn alu64(&mut self, op: u8, dst: Reg, src: impl Into<Operand>) {
        self.arithmetic(ALU64, op, dst, src.into());
    }

    fn arithmetic(&mut self, class: u8, op: u8, dst: Reg, src: Operand) {
        self.insns.push(match src {
            Operand::Reg(src) => Insn::new(class | op | REG, dst, src, 0, 0),
            Operand::Imm(imm) => Insn::new(class | op, dst, R0, 0, imm),
        });
    }

    /// Bytes of `dst` from network order, the rest of it zero.
    pub fn from_network(&mut self, dst: Reg, size: Size) {
        if matches!(size, Size::H | Size::W) {
            let bits = size.bytes() as i32 * 8;
            self.insns.push(Insn::new(ALU32 | TO_BE, dst, R0, 0, bits));
        }
    }

    /// `dst = *(size *)(base + off)`
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.insns
            .push(Insn::new(LDX | MEM | size.code(), dst, base, off, 0));
    }

    /// `*(size *)(base + off) = src`
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: impl Into<Operand>) {
        self.insns.push(match src.into() {
            Operand::Reg(src) => Insn::new(STX | MEM | size.code(), base, src, off, 0),
            Operand::Imm(imm) => Insn::new(ST | MEM | size.code(), base, R0, off, imm),
        });
    }

    /// Jumps if `a` and `b`, as 64-bit numbers, fulfil the condition.
    pub fn jump64(&mut self, condition: u8, a: Reg, b: impl Into<Operand>, to: Label) {
        self.conditional(JMP64, condition, a, b.into(), to);
    }

    /// The same for their lower halves.
    pub fn jump32(&mut self, condition: u8, a: Reg, b: impl Into<Operand>, to: Label) {
        self.conditional(JMP32, condition, a, b.into(), to);
    }

    fn conditional(&mut self, class: u8, condition: u8, a: Reg, b: Operand, to: Label) {
        self.fix(to);
        self.insns.push(match b {
            Operand::Reg(b) => Insn::new(class | condition | REG, a, b, 0, 0),
            Operand::Imm(imm) => Insn::new(class | condition, a, R0, 0, imm),
        });
    }

    /// Jumps.
    pub fn goto(&mut self, to: Label) {
        self.fix(to);
        self.insns.push(Insn::new(JMP64 | JA, R0, R0, 0, 0));
    }

    /// Jumps, in a form that leaves what follows reachable in the eyes of the verifier, which refuses
    /// instructions that nothing leads to.
    pub fn always(&mut self, to: Label) {
        self.alu64(alu::MOV, R1, 0);
        self.jump64(jump::EQ, R1, 0, to);
    }

    fn fix(&mut self, to: Label) {
        self.used[to.0] = true;
        self.jumps.push((self.insns.len(), to));
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: i32) {
        self.insns.push(Insn::new(JMP64 | CALL, R0, R0, 0, helper));
    }

    /// `dst = map`, by its descriptor in this process.
    pub fn load_map(&mut self, dst: Reg, fd: i32) {
        self.insns
            .push(Insn::new(LD_IMM64, dst, PSEUDO_MAP_FD, 0, fd));
        self.insns.push(Insn::new(0, R0, R0, 0, 0));
    }

    /// Ends with the value of `R0`.
    pub fn exit(&mut self) {
        self.insns.push(Insn::new(JMP64 | EXIT, R0, R0, 0, 0));
    }

    /// The program, its jumps resolved. A jump to the instruction behind it is harmless and stays.
    pub fn finish(mut self) -> Result<Vec<Insn>, TooFar> {
        for (at, label) in self.jumps {
            let target = self.placed[label.0].ok_or(TooFar)?;
            let distance = target as i64 - at as i64 - 1;
            self.insns[at].off = i16::try_from(distance).map_err(|_| TooFar)?;
        }
        Ok(self.insns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(insns: &[Insn]) -> Vec<(u8, u8, i16, i32)> {
        insns
            .iter()
            .map(|i| (i.code, i.regs, i.off, i.imm))
            .collect()
    }

    #[test]
    fn encodings_are_those_of_the_kernel() {
        let mut a = Assembler::default();
        a.alu64(alu::MOV, R6, R1);
        a.alu32(alu::ADD, R7, -1);
        a.load(Size::W, R1, R6, 76);
        a.store(Size::DW, FP, -8, R2);
        a.store(Size::W, FP, -4, 7);
        a.load_map(R2, 9);
        a.call(12);
        a.from_network(R7, Size::H);
        a.from_network(R7, Size::B);
        a.exit();
        // As clang -target bpf and llvm-objdump show them.
        assert_eq!(
            raw(&a.finish().unwrap()),
            [
                (0xbf, 0x16, 0, 0),
                (0x04, 0x07, 0, -1),
                (0x61, 0x61, 76, 0),
                (0x7b, 0x2a, -8, 0),
                (0x62, 0x0a, -4, 7),
                (0x18, 0x12, 0, 9),
                (0, 0, 0, 0),
                (0x85, 0, 0, 12),
                (0xdc, 0x07, 0, 16),
                (0x95, 0, 0, 0),
            ]
        );
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut a = Assembler::default();
        let (end, unused) = (a.label(), a.label());
        a.jump32(jump::EQ, R7, 5, end);
        a.goto(end);
        a.place(end);
        a.exit();
        assert!(a.is_used(end) && !a.is_used(unused));
        assert_eq!(
            raw(&a.finish().unwrap())[..2],
            [(0x16, 7, 1, 5), (0x05, 0, 0, 0)]
        );
    }

    #[test]
    fn a_jump_beyond_16_bits_is_an_error() {
        for (between, fits) in [(32_767, true), (32_768, false)] {
            let mut a = Assembler::default();
            let end = a.label();
            a.goto(end);
            for _ in 0..between {
                a.exit();
            }
            a.place(end);
            a.exit();
            assert_eq!(a.finish().is_ok(), fits, "{between}");
        }
    }
}
