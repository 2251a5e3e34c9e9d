//! What is looked at before anything is attached: each finding is one clear line.

mod filter;
mod forwarding;

pub use filter::{ChannelTaken, check_filter};
pub use forwarding::forwarding_settings;
