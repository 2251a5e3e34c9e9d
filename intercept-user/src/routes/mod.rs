//! Routes and early responses of one worker.
//!
//! ```text
//!  ADD ──▶ RouteTable ◀── response ──hit──▶ connection
//!            │                └─miss─▶ Parked ── 30 s, bounded ──▶ let go
//!            ├── takes what waits ◀──────┘
//!            └─ on the target itself ─▶ KernelRoutes ─▶ the program's map
//! ```

mod kernel;
mod key;
mod parked;
mod table;
#[cfg(test)]
mod tests;
mod wheel;

pub use kernel::{KernelMap, KernelRoutes};
pub use key::RouteKey;
pub use parked::{PARKED_LIFETIME, PARKED_PER_ROUTE, Parked, ParkedTotals};
pub use table::{CLOSING_LIFETIME, RouteTable, RouteTotals};
