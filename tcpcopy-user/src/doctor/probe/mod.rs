//! The hops from here to the target and back by intercept: a session of our own, followed.
//!
//! ```text
//!  connect() from this host's address        is there a target, does its port listen
//!  SYN from this host's address, as a frame  does the replay's way of sending reach it
//!  SYN from a client's address, announced    do answers come back by intercept
//!       └─ meanwhile every packet that passes this host: ARP for the client, answers that went astray, resets
//! ```
//! Each probe ends with a reset. Its ports are below 1024, which no session uses.

mod send;

pub use send::{Given, follow};

use common::packet::{Endpoint, MacAddr};
use doctor::Finding;

/// What became of a connection of the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The target took it; false if it ended it at once.
    Open {
        /// Still open some hundred milliseconds later.
        stays: bool,
    },
    /// A reset.
    Refused,
    /// No answer.
    TimedOut,
    /// What the kernel, or a router, said.
    Failed(String),
}

/// What came back for a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The port listens.
    SynAck,
    /// It does not.
    Reset,
    /// Something else of the same connection.
    Other,
}

/// What became of a frame of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not sent: the target is an address of this host.
    NotTried,
    /// No answer.
    Lost,
    /// An answer.
    Answered(Answer),
}

/// A SYN with a client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProbe {
    /// The address and port.
    pub client: Endpoint,
    /// What intercept reported.
    pub answer: Option<Answer>,
    /// A reset came behind the handshake.
    pub reset_later: bool,
}

/// Everything that is known of the way to one target and back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent sightings")]
pub struct ProbeFacts {
    /// The target.
    pub target: Endpoint,
    /// From this host's own address by its stack.
    pub plain: Plain,
    /// The same by the way of the replay.
    pub own: Frame,
    /// From a client's address; `None` if none is known.
    pub client: Option<ClientProbe>,
    /// The target asked its link for the client's address.
    pub asked_for_client: bool,
    /// The interface by which the target's answer to the client came to this host.
    pub astray: Option<String>,
    /// A reset from the client's address to the target passed this host.
    pub client_reset: bool,
    /// The MAC address given by hand and what the network says, if one was given.
    pub mac: Option<(MacAddr, Option<MacAddr>)>,
    /// An intercept takes routes.
    pub channel: bool,
    /// Every intercept that takes routes has been silent.
    pub silent: bool,
    /// Vendor of the cloud that this machine is in, if it says one.
    pub cloud: Option<String>,
}

/// Judges them.
pub fn judge(f: &ProbeFacts) -> Option<Finding> {
    if let Some(probe) = &f.client
        && let Some(answer) = probe.answer
    {
        return answered(f, probe, answer);
    }
    let target = f.target;
    if f.plain == Plain::Refused {
        return Some(port_closed(target));
    }
    if let Some(found) = f.client.as_ref().and_then(|probe| strayed(f, probe)) {
        return Some(found);
    }
    match (&f.plain, f.own) {
        (Plain::TimedOut, _) => Some(Finding::new(
            "target_silent",
            format!(
                "target {target} answers ARP or is behind a gateway that does, but no connection, not even from this host's own address"
            ),
            "look at the firewall of the target and between, and whether the target is up",
        )),
        (Plain::Failed(why), _) => Some(Finding::new(
            "target_unreachable",
            format!("target {target} cannot be connected to from this host's own address: {why}"),
            format!(
                "look at `ip route get {}` and at the firewalls on the way, which said so",
                target.addr
            ),
        )),
        (_, Frame::Lost) => Some(no_frame(f)),
        _ => f
            .client
            .as_ref()
            .filter(|_| f.channel)
            .map(|probe| lost(f, probe)),
    }
}

fn answered(f: &ProbeFacts, probe: &ClientProbe, answer: Answer) -> Option<Finding> {
    if answer == Answer::Reset {
        return Some(port_closed(f.target));
    }
    let alone = f.plain == Plain::Open { stays: true };
    (f.client_reset || (probe.reset_later && alone)).then(|| client_resets(f, probe))
}

/// The answer, or what was to become one, was seen from here.
fn strayed(f: &ProbeFacts, probe: &ClientProbe) -> Option<Finding> {
    let (target, client) = (f.target.addr, probe.client.addr);
    if f.client_reset {
        return Some(client_resets(f, probe));
    }
    if let Some(iface) = &f.astray {
        return Some(Finding::new(
            "answers_come_here",
            format!(
                "the answer of target {target} to client {client} came to this host on {iface}, expected it at intercept's host"
            ),
            format!(
                "on the target, route {client} to intercept's host, more specifically than the route by which it came here"
            ),
        ));
    }
    f.asked_for_client.then(|| {
        Finding::new(
            "clients_on_targets_link",
            format!("target {target} asks its own link for client {client} by ARP, expected it to send its answers to intercept's host"),
            format!("on the target, `ip route add {client}/32 via ADDRESS-OF-INTERCEPT`, for each address of -c, or choose addresses of another network"),
        )
    })
}

fn port_closed(target: Endpoint) -> Finding {
    Finding::new(
        "port_closed",
        format!(
            "target {target} answers with a reset: nothing listens on its port {}",
            target.port
        ),
        "start the server there, or correct -x",
    )
}

fn client_resets(f: &ProbeFacts, probe: &ClientProbe) -> Finding {
    Finding::new(
        "client_resets",
        format!(
            "the real client {} got the answer of target {} too and reset the connection, expected intercept's host alone to get it",
            probe.client.addr, f.target
        ),
        "on the target, make the route to intercept's host more specific than any other to that address, or replace the addresses with -c",
    )
}

fn no_frame(f: &ProbeFacts) -> Finding {
    let target = f.target;
    if let Some((given, known)) = f.mac
        && Some(given) != known
    {
        let known = known.map_or_else(
            || "the network does not say another".to_owned(),
            |known| format!("the network says {known}"),
        );
        return Finding::new(
            "wrong_mac",
            format!(
                "target {target} takes connections, but not what is sent to the MAC address {given} of --target-mac; {known}"
            ),
            "leave --target-mac out, or correct it",
        );
    }
    Finding::new(
        "frames_lost",
        format!(
            "target {target} takes connections of this host's stack, but a frame sent as the replay sends got no answer"
        ),
        "look at the log for how frames are sent (AF_XDP or raw sockets), and at port security of the switch",
    )
}

/// Everything works but that answers to the client's address come back.
fn lost(f: &ProbeFacts, probe: &ClientProbe) -> Finding {
    let (target, client) = (f.target, probe.client.addr);
    if f.silent {
        return Finding::new(
            "channel_silent",
            format!(
                "target {target} answers this host, but no answer to client {client} came by the channel, whose other end has said nothing at all"
            ),
            "if it is no C intercept, correct -s and -p; if it is one, look at its log",
        );
    }
    if let Some(cloud) = &f.cloud {
        return Finding::new(
            "forged_source_dropped",
            format!(
                "target {target} answers this host's own address, but not client {client}, and this is a machine of {cloud}, whose network drops packets with foreign sources"
            ),
            "switch the source check of both interfaces off (IP forwarding, anti-spoofing), or run where that can be done",
        );
    }
    Finding::new(
        "answers_lost",
        format!(
            "target {target} answers this host's own address, but no answer to client {client} came by intercept"
        ),
        format!(
            "on the target `ip route get {client}` must name intercept's host, rp_filter must let that address in, and no switch may drop its packets: \
             `intercept-user doctor` on intercept's host, and with --at-target {client} on the target, say which"
        ),
    )
}

#[cfg(test)]
mod tests;
