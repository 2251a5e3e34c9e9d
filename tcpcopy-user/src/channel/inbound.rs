//! What intercept sends, in clear text or sealed.

use channel_crypto::Opener;
use common::flow::ResponseHeader;
use common::packet::Endpoint;
use common::wire::compat;
use common::wire::native::{ServerRecord, ServerStream, ack_flags};

/// What has come from intercepts.
#[derive(Debug, Default)]
pub struct Received {
    /// Responses.
    pub headers: Vec<ResponseHeader>,
    /// Client and target of each confirmed route.
    pub confirmed: Vec<(Endpoint, Endpoint)>,
}

/// Reader of one connection.
#[derive(Debug)]
pub struct Inbound {
    stream: ServerStream,
    opener: Option<Opener>,
}

impl Inbound {
    /// Without a key: whatever the first byte says.
    pub fn open() -> Self {
        Self {
            stream: ServerStream::default(),
            opener: None,
        }
    }

    /// Behind a handshake.
    pub fn sealed(opener: Opener, flags: u8) -> Self {
        Self {
            stream: ServerStream::native(flags),
            opener: Some(opener),
        }
    }

    /// Our own format is spoken.
    pub fn is_native(&self) -> bool {
        self.stream.is_native()
    }

    /// What a C intercept was built to send, once it has shown.
    pub fn compat_variant(&self) -> Option<compat::Variant> {
        self.stream.compat_variant()
    }

    /// intercept confirms routes.
    pub fn confirms(&self) -> bool {
        self.stream.confirms()
    }

    /// intercept answers pings.
    pub fn pongs(&self) -> bool {
        self.stream.flags() & ack_flags::PONGS != 0
    }

    /// intercept has a key and wants to see it, but we have none.
    pub fn wants_key(&self) -> bool {
        self.opener.is_none() && self.stream.flags() & ack_flags::KEYED != 0
    }

    /// Reads bytes. An error is the reason why the connection must end.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(ServerRecord),
    ) -> Result<(), String> {
        let Some(opener) = &mut self.opener else {
            return self.stream.feed(bytes, each).map_err(|e| e.to_string());
        };
        while let Some(plain) = opener.next(&mut bytes).map_err(|e| e.to_string())? {
            self.stream
                .feed(plain, &mut each)
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
