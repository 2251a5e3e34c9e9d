//! Classic BPF to eBPF.
//!
//! ```text
//!  classic            eBPF
//!  A, X               R7, R8: 32 bits wide, upper halves zero
//!  M[0..16]           stack
//!  P[k..]             access.rs
//!  ret 0, ret k       reject, accept: code of the caller's
//! ```
//! Instruction by instruction; classic programs have no loops, so jumps only go forward. Where eBPF
//! differs from libpcap's interpreter (division by zero, shifts by more than 31), guards make it the same.
//! Instructions that nothing reaches are left out, since the verifier refuses them.

use super::access::{Access, Base, Hook};
use super::classic::{ClassicInsn, MEMORY_WORDS, MISC_TXA, RET_A, RET_SOURCE, class, mode};
use super::insn::{Assembler, FP, Insn, Label, R1, R6, R7, R8, Reg, Size, TooFar, alu, jump};

const A: Reg = R7;
const X: Reg = R8;
/// Most instructions of a classic program that are accepted: libpcap's optimiser takes seconds beyond, and
/// no jump would reach.
const MAX_CLASSIC: usize = 16_384;

/// Why a program cannot run in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// `inbound`, `outbound`, `ifindex`.
    #[error(
        "asks for what is not in the packet (inbound, outbound, ifindex): capture sees what the interface \
         receives only, leave that part out"
    )]
    Metadata,
    /// `protochain`.
    #[error("needs a loop (protochain), which filters in the kernel have not: name the protocol")]
    Loop,
    /// Thousands of alternatives.
    #[error(
        "too long: {classic} instructions of classic BPF are more than jumps can reach over; use networks \
         instead of many hosts"
    )]
    TooLong {
        /// Instructions that libpcap made of it.
        classic: usize,
    },
    /// Not what libpcap emits.
    #[error(
        "instruction {at} (code {code:#06x}) is not known: is libpcap newer than this program?"
    )]
    Unknown {
        /// Index.
        at: usize,
        /// Its code.
        code: u16,
    },
}

/// Code that ends the program: it may use every register, finds the context in `R6`, and must exit.
pub type Ending<'a> = &'a dyn Fn(&mut Assembler);

/// Translates a program. A packet that it accepts ends in `accept`, any other in `reject`. It judges the
/// packet that begins at `base`, which only XDP's programs have.
pub fn translate(
    program: &[ClassicInsn],
    hook: Hook,
    base: Option<Base>,
    accept: Ending<'_>,
    reject: Ending<'_>,
) -> Result<Vec<Insn>, TranslateError> {
    let too_long = TranslateError::TooLong {
        classic: program.len(),
    };
    if program.len() > MAX_CLASSIC {
        return Err(too_long);
    }
    let reached = reached(program)?;
    let mut a = Assembler::default();
    let labels: Vec<Label> = program.iter().map(|_| a.label()).collect();
    let (accepted, rejected) = (a.label(), a.label());
    let mut t = Translation {
        a,
        labels,
        accepted,
        rejected,
        access: Access::new(hook, base, rejected),
    };
    t.prologue(program);
    for (at, insn) in program.iter().enumerate() {
        if reached[at] {
            t.a.place(t.labels[at]);
            t.one(at, *insn)?;
        }
    }
    let Translation { mut a, access, .. } = t;
    access.finish(&mut a);
    for (label, ending) in [(accepted, accept), (rejected, reject)] {
        if a.is_used(label) {
            a.place(label);
            ending(&mut a);
        }
    }
    a.finish().map_err(|TooFar| too_long)
}

/// Which instructions can be reached.
fn reached(program: &[ClassicInsn]) -> Result<Vec<bool>, TranslateError> {
    let mut reached = vec![false; program.len()];
    *reached.first_mut().ok_or(unknown(program, 0))? = true;
    for (at, insn) in program.iter().copied().enumerate() {
        if !reached[at] {
            continue;
        }
        let mut mark = |to: usize| match reached.get_mut(to) {
            Some(slot) => {
                *slot = true;
                Ok(())
            }
            None => Err(unknown(program, at)),
        };
        match (insn.class(), insn.op()) {
            (class::RET, _) => {}
            (class::JMP, 0) => mark(always(at, insn)?)?,
            (class::JMP, _) => {
                mark(at + 1 + usize::from(insn.jt))?;
                mark(at + 1 + usize::from(insn.jf))?;
            }
            _ => mark(at + 1)?,
        }
    }
    Ok(reached)
}

/// Target of an unconditional jump.
fn always(at: usize, insn: ClassicInsn) -> Result<usize, TranslateError> {
    // libpcap writes backward jumps as negative distances.
    let distance = i32::try_from(insn.k).map_err(|_| TranslateError::Loop)?;
    Ok(at + 1 + distance as usize)
}

fn unknown(program: &[ClassicInsn], at: usize) -> TranslateError {
    TranslateError::Unknown {
        at,
        code: program.get(at).map_or(0, |i| i.code),
    }
}

struct Translation {
    a: Assembler,
    /// By classic instruction.
    labels: Vec<Label>,
    accepted: Label,
    rejected: Label,
    access: Access,
}

impl Translation {
    fn prologue(&mut self, program: &[ClassicInsn]) {
        let a = &mut self.a;
        a.alu64(alu::MOV, R6, R1);
        a.alu32(alu::MOV, A, 0);
        a.alu32(alu::MOV, X, 0);
        let mut words: Vec<u32> = program
            .iter()
            .filter(|i| matches!(i.class(), class::LD | class::LDX) && i.mode() == mode::MEM)
            .map(|i| i.k)
            .filter(|k| *k < MEMORY_WORDS)
            .collect();
        words.sort_unstable();
        words.dedup();
        for word in words {
            a.store(Size::W, FP, memory(word), 0);
        }
        let loads = |i: &ClassicInsn| {
            matches!(i.class(), class::LD | class::LDX)
                && !matches!(i.mode(), mode::IMM | mode::MEM)
        };
        if program.iter().any(loads) {
            self.access.prologue(a);
        }
    }

    fn one(&mut self, at: usize, insn: ClassicInsn) -> Result<(), TranslateError> {
        let unknown = TranslateError::Unknown {
            at,
            code: insn.code,
        };
        let a = &mut self.a;
        match insn.class() {
            class::LD => self.load(insn).ok_or(unknown)?,
            class::LDX => self.load_index(insn).ok_or(unknown)?,
            class::ST if insn.k < MEMORY_WORDS => a.store(Size::W, FP, memory(insn.k), A),
            class::STX if insn.k < MEMORY_WORDS => a.store(Size::W, FP, memory(insn.k), X),
            class::ALU => self.arithmetic(insn).ok_or(unknown)?,
            class::JMP => self.jump(at, insn)?.ok_or(unknown)?,
            class::RET => match insn.code & RET_SOURCE {
                0 if insn.k == 0 => a.goto(self.rejected),
                0 => a.goto(self.accepted),
                RET_A => {
                    a.jump32(jump::EQ, A, 0, self.rejected);
                    a.goto(self.accepted);
                }
                _ => return Err(unknown),
            },
            class::MISC => match insn.code & 0xf8 {
                0 => a.alu32(alu::MOV, X, A),
                MISC_TXA => a.alu32(alu::MOV, A, X),
                _ => return Err(unknown),
            },
            _ => return Err(unknown),
        }
        // Extensions of the kernel are loads from negative offsets (linux/filter.h, SKF_AD_OFF).
        if insn.class() == class::LD && insn.mode() == mode::ABS && (insn.k as i32) < 0 {
            return Err(TranslateError::Metadata);
        }
        Ok(())
    }

    /// `None`: not known.
    fn load(&mut self, insn: ClassicInsn) -> Option<()> {
        let a = &mut self.a;
        match insn.mode() {
            mode::IMM => a.alu32(alu::MOV, A, insn.k as i32),
            mode::MEM if insn.k < MEMORY_WORDS => a.load(Size::W, A, FP, memory(insn.k)),
            mode::LEN => self.access.length(a, A),
            mode::ABS => self.access.absolute(a, size(insn)?, A, insn.k),
            mode::IND => self.access.indirect(a, size(insn)?, A, insn.k),
            _ => return None,
        }
        Some(())
    }

    fn load_index(&mut self, insn: ClassicInsn) -> Option<()> {
        let a = &mut self.a;
        match insn.mode() {
            mode::IMM => a.alu32(alu::MOV, X, insn.k as i32),
            mode::MEM if insn.k < MEMORY_WORDS => a.load(Size::W, X, FP, memory(insn.k)),
            mode::LEN => self.access.length(a, X),
            mode::MSH if size(insn)? == Size::B => {
                // The header length of an IPv4 header, in bytes.
                self.access.absolute(a, Size::B, X, insn.k);
                self.a.alu32(alu::AND, X, 0xf);
                self.a.alu32(alu::LSH, X, 2);
            }
            _ => return None,
        }
        Some(())
    }

    fn arithmetic(&mut self, insn: ClassicInsn) -> Option<()> {
        const OPS: [u8; 11] = [
            alu::ADD,
            alu::SUB,
            alu::MUL,
            alu::DIV,
            alu::OR,
            alu::AND,
            alu::LSH,
            alu::RSH,
            alu::NEG,
            alu::MOD,
            alu::XOR,
        ];
        let a = &mut self.a;
        // Numbered alike.
        let op = *OPS.get(usize::from(insn.op() >> 4))?;
        match op {
            alu::NEG => a.alu32(op, A, 0),
            alu::DIV | alu::MOD if insn.uses_x() => {
                // libpcap: no match; eBPF: 0, or the dividend.
                a.jump32(jump::EQ, X, 0, self.rejected);
                a.alu32(op, A, X);
            }
            alu::DIV | alu::MOD if insn.k == 0 => a.always(self.rejected),
            alu::LSH | alu::RSH if insn.uses_x() => {
                let (over, done) = (a.label(), a.label());
                a.jump32(jump::GT, X, 31, over);
                a.alu32(op, A, X);
                a.goto(done);
                a.place(over);
                a.alu32(alu::MOV, A, 0);
                a.place(done);
            }
            alu::LSH | alu::RSH if insn.k > 31 => a.alu32(alu::MOV, A, 0),
            _ if insn.uses_x() => a.alu32(op, A, X),
            _ => a.alu32(op, A, insn.k as i32),
        }
        Some(())
    }

    fn jump(&mut self, at: usize, insn: ClassicInsn) -> Result<Option<()>, TranslateError> {
        if insn.op() == 0 {
            let to = always(at, insn)?;
            self.a.goto(self.labels[to]);
            return Ok(Some(()));
        }
        // With the opposite, if there is one, for jumps whose first branch is the next instruction.
        let (condition, opposite) = match insn.op() {
            0x10 => (jump::EQ, Some(jump::NE)),
            0x20 => (jump::GT, Some(jump::LE)),
            0x30 => (jump::GE, Some(jump::LT)),
            0x40 => (jump::SET, None),
            _ => return Ok(None),
        };
        let yes = self.labels[at + 1 + usize::from(insn.jt)];
        let no = self.labels[at + 1 + usize::from(insn.jf)];
        let mut test = |condition, to| {
            if insn.uses_x() {
                self.a.jump32(condition, A, X, to);
            } else {
                self.a.jump32(condition, A, insn.k as i32, to);
            }
        };
        match (insn.jt, insn.jf, opposite) {
            (0, 0, _) => {}
            (0, _, Some(opposite)) => test(opposite, no),
            (_, 0, _) => test(condition, yes),
            _ => {
                test(condition, yes);
                self.a.goto(no);
            }
        }
        Ok(Some(()))
    }
}

fn size(insn: ClassicInsn) -> Option<Size> {
    match insn.code & 0x18 {
        0x00 => Some(Size::W),
        0x08 => Some(Size::H),
        0x10 => Some(Size::B),
        _ => None,
    }
}

/// Stack offset of a scratch word.
const fn memory(word: u32) -> i16 {
    -(4 * MEMORY_WORDS as i16) + 4 * word as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOOKS: [Hook; 3] = [Hook::Tcx, Hook::Xdp, Hook::Socket];
    /// `ret #0`, `ret #1`.
    const NO: ClassicInsn = insn(0x06, 0, 0, 0);
    const YES: ClassicInsn = insn(0x06, 0, 0, 1);

    const fn insn(code: u16, jt: u8, jf: u8, k: u32) -> ClassicInsn {
        ClassicInsn { code, jt, jf, k }
    }

    fn translated(program: &[ClassicInsn], hook: Hook) -> Result<Vec<Insn>, TranslateError> {
        translate(program, hook, None, &Assembler::exit, &Assembler::exit)
    }

    fn error(program: &[ClassicInsn]) -> TranslateError {
        let errors = HOOKS.map(|hook| translated(program, hook).expect_err("an error"));
        assert_eq!(errors[0], errors[1]);
        errors[0]
    }

    #[test]
    fn a_bare_verdict_has_the_other_ending_left_out() {
        for hook in HOOKS {
            // Context, A, X, a jump to the ending, and the ending.
            assert_eq!(translated(&[YES], hook).unwrap().len(), 5);
            assert_eq!(translated(&[NO], hook).unwrap().len(), 5);
        }
    }

    #[test]
    fn what_nothing_reaches_is_left_out_even_if_it_is_unknown() {
        let dead = insn(0xffff, 0, 0, 0);
        for hook in HOOKS {
            let jump = [insn(0x05, 0, 0, 1), dead, YES];
            assert_eq!(translated(&jump, hook).unwrap().len(), 6);
            assert_eq!(translated(&[YES, dead], hook), translated(&[YES], hook));
        }
    }

    #[test]
    fn programs_that_do_not_end_or_jump_out_are_refused() {
        let unknown = |at, code| TranslateError::Unknown { at, code };
        assert_eq!(error(&[]), unknown(0, 0));
        assert_eq!(error(&[insn(0x00, 0, 0, 1)]), unknown(0, 0));
        assert_eq!(error(&[insn(0x15, 0, 1, 0), YES]), unknown(0, 0x15));
        assert_eq!(error(&[insn(0x05, 0, 0, 1), YES]), unknown(0, 0x05));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let unknown = |code| TranslateError::Unknown { at: 0, code };
        for code in [
            0x38, // ld abs of eight bytes
            0xa0, // ld msh
            0xe0, // ld of the last mode
            0x21, // ldx abs
            0xa1, // ldx msh of a word
            0xb4, // alu of the twelfth operation
            0x55, // jmp of the sixth condition
            0x0e, // ret x
            0x47, // misc
        ] {
            assert_eq!(
                error(&[insn(code, 0, 0, 0), YES]),
                unknown(code),
                "{code:#x}"
            );
        }
        // Scratch words are 16.
        for code in [0x60, 0x61, 0x02, 0x03] {
            assert_eq!(error(&[insn(code, 0, 0, 16), YES]), unknown(code));
            assert!(translated(&[insn(code, 0, 0, 15), YES], Hook::Xdp).is_ok());
        }
    }

    #[test]
    fn loops_metadata_and_length() {
        assert_eq!(
            error(&[insn(0x05, 0, 0, u32::MAX), YES]),
            TranslateError::Loop
        );
        // SKF_AD_OFF + SKF_AD_PKTTYPE.
        let kind = insn(0x20, 0, 0, 0xffff_f004);
        assert_eq!(error(&[kind, YES]), TranslateError::Metadata);
        let load = insn(0x20, 0, 0, 1 << 20);
        let mut long = vec![load; MAX_CLASSIC - 1];
        long.push(YES);
        let too_long = |classic| TranslateError::TooLong { classic };
        assert_eq!(error(&long), too_long(MAX_CLASSIC));
        long.push(YES);
        assert_eq!(error(&long), too_long(MAX_CLASSIC + 1));
    }

    proptest! {
        /// Whatever it is given: a program or an error. Classes and sizes are drawn so that many get far.
        #[test]
        fn no_input_panics(
            program in prop::collection::vec(
                (0u16..256, 0u8..4, 0u8..4, prop_oneof![0u32..20, any::<u32>()])
                    .prop_map(|(code, jt, jf, k)| insn(code, jt, jf, k)),
                0..40,
            ),
        ) {
            for hook in HOOKS {
                let _ = translated(&program, hook);
            }
        }
    }
}
