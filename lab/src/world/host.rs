//! The hosts of the lab and their addresses.

use std::net::Ipv4Addr;

/// Address from which every connection of the client comes: outside the servers' network, as real clients are.
pub const CLIENT_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

/// Every host that has an address, in the order of the picture.
pub const HOSTS: [Host; 5] = [
    Host::Client,
    Host::Production,
    Host::Target,
    Host::Assistant,
    Host::Capture,
];

/// A cable of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cable {
    /// That of a host's `eth0`.
    Of(Host),
    /// That of the mirror port.
    Mirror,
}

impl Cable {
    /// Name of its port on the switch.
    pub const fn port(self) -> &'static str {
        match self {
            Self::Of(host) => host.name(),
            Self::Mirror => "mirror",
        }
    }

    /// Names of the two ends where it is spliced, in the switch's namespace: the port's and the host's side.
    pub(crate) fn splice(self) -> [String; 2] {
        ["a", "b"].map(|side| format!("{}-{side}", self.port()))
    }
}

/// A namespace of the lab with an interface `eth0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Where requests come from.
    Client,
    /// The server whose traffic is copied.
    Production,
    /// The server under test.
    Target,
    /// Runs intercept; the target routes the client networks to it.
    Assistant,
    /// Has the mirror port `mir0` beside its `eth0`.
    Capture,
}

impl Host {
    /// Name of the namespace's last part and of the port on the switch.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Production => "production",
            Self::Target => "target",
            Self::Assistant => "assistant",
            Self::Capture => "capture",
        }
    }

    /// Address of `eth0` in 10.77.0.0/24.
    pub const fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Client => 10,
            Self::Production => 20,
            Self::Target => 30,
            Self::Assistant => 40,
            Self::Capture => 50,
        };
        Ipv4Addr::new(10, 77, 0, last)
    }

    /// The host of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        HOSTS.into_iter().find(|host| host.name() == name)
    }
}
