//! The ports against a real kernel, in network namespaces of their own. Needs root.
//!
//! | file | proves |
//! |---|---|
//! | `transmit` | AF_XDP and raw sockets send byte for byte; failures are named, counted, survived |
//! | `receive` | AF_XDP receives byte for byte with metadata; losses are counted; frames come back |
//! | `hops` | next hops are found and followed: MAC, route, link, MTU; interfaces are described |

mod hops;
mod net;
mod receive;
mod transmit;
mod xdp;
