//! curl from the client to production, with an id for each request.

use crate::{
    LabError,
    replay::PRODUCTION_PORT,
    world::{Host, Lab, Process},
};

/// A run of curl: requests one after the other.
#[derive(Clone, Debug)]
pub struct Curl {
    name: String,
    requests: u64,
    flags: Vec<&'static str>,
}

impl Curl {
    /// All requests on one connection, which curl closes.
    pub fn kept(name: &str, requests: u64) -> Self {
        Self {
            name: name.to_owned(),
            requests,
            flags: Vec::new(),
        }
    }

    /// A connection for each request, which the server closes.
    pub fn short(name: &str, requests: u64) -> Self {
        Self {
            flags: vec!["-H", "Connection: close"],
            ..Self::kept(name, requests)
        }
    }

    /// With a form in each request.
    #[must_use]
    pub fn posting(mut self) -> Self {
        self.flags.extend(["--data", "a=1&b=2"]);
        self
    }

    /// Starts it; it ends with a failure when a request has no good answer.
    pub fn start(&self, lab: &Lab) -> Result<Process, LabError> {
        let mut command = lab.command(Host::Client, "curl");
        command
            .args(["-s", "-S", "-f", "-o", "/dev/null"])
            .args(&self.flags)
            .arg(format!(
                "http://{}:{PRODUCTION_PORT}/curl?id={}-[1-{}]",
                Host::Production.address(),
                self.name,
                self.requests
            ));
        Process::start(&self.name, &mut command, lab.folder())
    }
}
