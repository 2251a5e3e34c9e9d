//! What is looked at before anything is attached, each finding one clear line, and the choice of what is attached.

mod filter;
mod forwarding;
pub mod on_target;
mod taking;

pub use filter::{ChannelTaken, check_filter};
pub use forwarding::forwarding_settings;
pub use taking::Taking;
