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
    port: u16,
    flags: Vec<String>,
}

impl Curl {
    /// All requests on one connection, which curl closes.
    pub fn kept(name: &str, requests: u64) -> Self {
        Self {
            name: name.to_owned(),
            requests,
            port: PRODUCTION_PORT,
            flags: Vec::new(),
        }
    }

    /// A connection for each request, which the server closes.
    pub fn short(name: &str, requests: u64) -> Self {
        let mut curl = Self::kept(name, requests);
        curl.flag(&["-H", "Connection: close"]);
        curl
    }

    fn flag(&mut self, words: &[&str]) {
        self.flags.extend(words.iter().map(|&word| word.to_owned()));
    }

    /// With a form in each request.
    #[must_use]
    pub fn posting(mut self) -> Self {
        self.flag(&["--data", "a=1&b=2"]);
        self
    }

    /// With that many bytes in each request, which must be few enough for a command line.
    #[must_use]
    pub fn posting_bytes(mut self, bytes: usize) -> Self {
        // curl asks first whether a body of more than 1 MB is wanted; the servers answer at once.
        self.flag(&["-H", "Expect:", "--data", &"x".repeat(bytes)]);
        self
    }

    /// At most so many requests a second.
    #[must_use]
    pub fn paced(mut self, per_second: u32) -> Self {
        self.flag(&["--rate", &format!("{}/m", per_second * 60)]);
        self
    }

    /// To another port of production.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts it; it ends with a failure when a request has no good answer.
    pub fn start(&self, lab: &Lab) -> Result<Process, LabError> {
        let mut command = lab.command(Host::Client, "curl");
        command
            .args(["-s", "-S", "-f", "-o", "/dev/null"])
            .args(&self.flags)
            .arg(format!(
                "http://{}:{}/curl?id={}-[1-{}]",
                Host::Production.address(),
                self.port,
                self.name,
                self.requests
            ));
        Process::start(&self.name, &mut command, lab.folder())
    }
}
