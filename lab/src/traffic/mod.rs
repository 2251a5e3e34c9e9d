//! Requests whose every byte follows from their number, so that both ends can check them.
//!
//! ```text
//!   load (client) ──/lab/<seed>/<n>, body──▶ server (production) ──▶ access log ─┐
//!                                   replay ▶ server (target)     ──▶ access log ─┴─▶ compare
//! ```

mod access_log;
mod content;
mod curl;
mod flood;
mod load;
mod responses;
mod server;
mod talk;

pub use access_log::{AccessLog, Comparison, Entry, Ids};
pub use content::{RequestId, Spec};
pub use curl::Curl;
pub use flood::{Flood, FloodReport};
pub use load::{LoadOptions, LoadReport, run_load};
pub use responses::{Pace, Responses, ResponsesReport};
pub use server::run_server;
pub use talk::{Book, Connection, Heard, Talk, TalkServer};
