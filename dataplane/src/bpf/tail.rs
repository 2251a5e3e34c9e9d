//! Programs that others go on in, by a tail call array of the object.

use aya::Ebpf;
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, SchedClassifier, Xdp};

use super::error::chain;
use super::filter::Hook;
use super::{BpfError, load};

/// Loads a program and hands out its descriptor.
pub(super) fn load_program<'a>(
    ebpf: &'a mut Ebpf,
    hook: Hook,
    name: &str,
) -> Result<&'a ProgramFd, BpfError> {
    let object = |reason: String| BpfError::Object { reason };
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| object(format!("it has no program {name}")))?;
    match hook {
        Hook::Tcx => {
            let program: &mut SchedClassifier = program
                .try_into()
                .map_err(|e| object(format!("program {name}: {}", chain(&e))))?;
            program.load()
        }
        Hook::Xdp => {
            let program: &mut Xdp = program
                .try_into()
                .map_err(|e| object(format!("program {name}: {}", chain(&e))))?;
            program.load()
        }
    }
    .map_err(|e| BpfError::from_program(name, e))?;
    ebpf.program(name)
        .and_then(|p| p.fd().ok())
        .ok_or_else(|| object(format!("program {name} is not loaded")))
}

/// Loads programs and puts them into the slots of `array`. The object keeps the array, which the kernel
/// would else empty.
pub(super) fn install(
    ebpf: &mut Ebpf,
    hook: Hook,
    array: &'static str,
    programs: &[(u32, &str)],
) -> Result<(), BpfError> {
    for (slot, name) in programs {
        let fd = load_program(ebpf, hook, name)?
            .try_clone()
            .map_err(|e| BpfError::from_program(name, e.into()))?;
        let mut map: ProgramArray<_> = load::borrow(ebpf, array)?;
        map.set(*slot, &fd, 0).map_err(|e| BpfError::Map {
            map: array,
            action: "insert a program",
            error: chain(&e),
        })?;
    }
    Ok(())
}
