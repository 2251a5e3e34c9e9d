//! What is looked at before anything is attached: each finding is one clear line.

mod forwarding;
mod privileges;

pub use forwarding::forwarding_settings;
pub use privileges::{MissingCapability, check_privileges};
