//! Properties of the engine against oracles, for random inputs. A failure prints the smallest input
//! and is kept in `proptest-regressions/`, from where it is tried first from then on.

#[path = "../support/mod.rs"]
mod support;

mod arbitrary;
mod rig;
mod turns;
mod window;
