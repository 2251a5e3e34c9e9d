//! Transmit in every situation: routes, neighbours, links, interfaces, netfilter and MTU change while a replay runs.
//! Each test replays all requests all the same, counts and names what happened, and has no wrong checksum anywhere.

mod links;
mod mtu;
mod netfilter;
mod routes;
mod scene;
mod sums;
