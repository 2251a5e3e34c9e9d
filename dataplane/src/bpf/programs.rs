//! The programs of an object: found by name, loaded once, put where others go on in them by a tail call.

use aya::Ebpf;
use aya::maps::ProgramArray;
use aya::programs::{Program, ProgramFd, SchedClassifier, SocketFilter, Xdp};

use super::error::chain;
use super::filter::Hook;
use super::{BpfError, load};

/// A program of the object as its kind.
pub(super) fn find<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = aya::programs::ProgramError>,
{
    let object = |reason: String| BpfError::Object { reason };
    ebpf.program_mut(name)
        .ok_or_else(|| object(format!("it has no program {name}")))?
        .try_into()
        .map_err(|e| object(format!("program {name}: {}", chain(&e))))
}

/// Loads a program, unless that was done before, and hands out its descriptor.
pub(super) fn load_program<'a>(
    ebpf: &'a mut Ebpf,
    hook: Hook,
    name: &str,
) -> Result<&'a ProgramFd, BpfError> {
    if ebpf.program(name).is_none_or(|p| p.fd().is_err()) {
        match hook {
            Hook::Tcx => find::<SchedClassifier>(ebpf, name)?.load(),
            Hook::Xdp => find::<Xdp>(ebpf, name)?.load(),
            Hook::Socket => find::<SocketFilter>(ebpf, name)?.load(),
        }
        .map_err(|e| BpfError::from_program(name, e))?;
    }
    ebpf.program(name)
        .and_then(|p| p.fd().ok())
        .ok_or_else(|| BpfError::Object {
            reason: format!("program {name} is not loaded"),
        })
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
