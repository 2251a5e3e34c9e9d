//! What a run would refuse: loops, production as the target, capture by surprise.

use crate::checks::CheckError;
use doctor::Finding;

/// The cause behind a refusal, which says itself what is expected.
pub fn judge(error: &CheckError) -> Finding {
    let (cause, fix) = match error {
        CheckError::Privileges(_) | CheckError::MissingToSend(_) => {
            ("missing_privilege", "with them start again")
        }
        CheckError::TargetCaptured { .. } => ("target_is_captured", "change -x"),
        CheckError::TargetOnline { .. } | CheckError::TargetIsHost { .. } => {
            ("target_is_production", "change -x")
        }
        CheckError::ClientIsTarget { .. } | CheckError::ClientFamily { .. } => {
            ("clients_unfit", "change -c")
        }
        CheckError::Pool(_) => ("pool_unfit", "change --pool"),
        CheckError::NoEthernet { .. } => ("no_ethernet", "change --iface"),
        CheckError::MirrorRefused { .. } => ("mirror_in_use", "change --capture or --iface"),
    };
    Finding::new(cause, error.to_string(), fix)
}
