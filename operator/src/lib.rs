//! The side that both programs show to their operator, so that they look alike and are learnt once.
//!
//! * [`duration`], [`fraction`]: times and factors as they are typed;
//! * [`usage`]: command line errors of one line;
//! * [`log`]: `--log-level`, `--log-format`, `-l`;
//! * [`signals`]: requests to end;
//! * [`privileges`]: what the process may do;
//! * [`percentiles`]: histograms in reports;
//! * [`sockets`]: who uses a port;
//! * [`progress`]: how far something is, on a terminal;
//! * [`exit`]: text, codes and the embedded BPF object.
#![forbid(unsafe_code)]

pub mod duration;
pub mod exit;
pub mod fraction;
pub mod log;
pub mod percentiles;
pub mod privileges;
pub mod progress;
pub mod signals;
pub mod sockets;
pub mod usage;
