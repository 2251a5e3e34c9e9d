//! Requests arrive whole and once, whatever the interface and whatever size their packets have on it.
//!
//! | file | what is captured |
//! |---|---|
//! | interfaces.rs | loopback between a proxy and its backend, both ends of a container's veth, jumbo frames |
//! | fragments.rs | what a router with a small MTU makes of TCP and UDP, and senders of large datagrams |

mod fragments;
mod interfaces;
mod scene;
