//! What is looked at before anything is attached: each finding is one clear line.

mod forwarding;

pub use forwarding::forwarding_settings;
