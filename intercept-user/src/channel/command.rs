//! What the control thread tells workers.

use super::reader::Format;
use crate::routes::RouteKey;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A connection for as long as the process lives: the number of its place and how often the place was
/// used before. A route of a closed connection can therefore never come to life for the next one, as it
/// does in C, where routes name a file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConnectionId {
    /// Place; [`ConnectionId::owner`] follows from it.
    pub index: u32,
    /// Use of the place, from 1.
    pub generation: u32,
}

impl ConnectionId {
    /// The worker that writes to this connection.
    #[inline(always)]
    pub const fn owner(self, workers: u32) -> u32 {
        self.index % if workers == 0 { 1 } else { workers }
    }
}

/// One message.
#[derive(Debug)]
pub enum Command {
    /// A connection said hello. Every worker learns of it; its owner gets the socket.
    Open {
        /// Name.
        connection: ConnectionId,
        /// Far end.
        peer: SocketAddr,
        /// The socket, and how it is written to, for the owner only. The control thread holds the other reference
        /// and reads.
        writing: Option<(Arc<TcpStream>, Format)>,
    },
    /// A route, for the worker that owns its client.
    Add {
        /// Session.
        key: RouteKey,
        /// Where its responses go.
        connection: ConnectionId,
    },
    /// A route is not needed any more.
    Del {
        /// Session.
        key: RouteKey,
        /// Who says so.
        connection: ConnectionId,
    },
    /// A peer wants a sign of life, from the owner of its connection.
    Ping {
        /// Who.
        connection: ConnectionId,
        /// Comes back with the answer.
        token: u64,
    },
    /// A connection is gone. Every worker learns of it.
    Close {
        /// Name.
        connection: ConnectionId,
    },
}
