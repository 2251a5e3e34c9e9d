//! The traffic parts as processes: a program calls itself again inside a namespace.
//!
//! `cargo xtask lab-tool …` and the test helper binary `lab-tool …` both end in [`main`]; [`Tool`] makes the command
//! lines, so there is one place that knows the arguments.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use crate::{
    LabError,
    faults::{self, Rule},
    traffic::{LoadOptions, run_load, run_server},
    world::{Cable, Host, Lab},
};

/// How to call the program that contains [`main`].
#[derive(Clone, Debug)]
pub struct Tool {
    program: PathBuf,
    first: Vec<String>,
}

impl Tool {
    /// `program first…` ends in [`main`] with the arguments that follow.
    pub fn new(program: impl Into<PathBuf>, first: &[&str]) -> Self {
        Self {
            program: program.into(),
            first: first.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// The HTTP server of `host`.
    pub fn server(&self, lab: &Lab, host: Host, port: u16, log: &Path) -> Command {
        self.server_at(lab, host, (host.address(), port), log)
    }

    /// The same on another address of the host.
    pub fn server_at(
        &self,
        lab: &Lab,
        host: Host,
        (address, port): (Ipv4Addr, u16),
        log: &Path,
    ) -> Command {
        let mut command = self.on(lab, host);
        command
            .args(["http-server", &address.to_string(), &port.to_string()])
            .arg(log);
        command
    }

    /// Load from the client.
    pub fn load(&self, lab: &Lab, options: &LoadOptions) -> Command {
        let mut command = self.on(lab, Host::Client);
        let (address, port) = options.server;
        command.args(["load", &address.to_string(), &port.to_string()]);
        for number in [
            options.requests,
            options.connections,
            options.rate,
            options.seed,
        ] {
            command.arg(number.to_string());
        }
        command
    }

    /// The forwarder that joins a spliced cable.
    pub fn faults(&self, lab: &Lab, cable: Cable, seed: u64, rules: &[Rule]) -> Command {
        let mut command = lab.switch().command(&self.program);
        command
            .args(&self.first)
            .arg("faults")
            .args(cable.splice())
            .arg(seed.to_string())
            .args(rules.iter().map(Rule::to_string));
        command
    }

    fn on(&self, lab: &Lab, host: Host) -> Command {
        let mut command = lab.command(host, &self.program);
        command.args(&self.first);
        command
    }
}

/// Runs the tool that `arguments` name: `http-server ADDRESS PORT LOG`,
/// `load ADDRESS PORT REQUESTS CONNECTIONS RATE SEED` or `faults SWITCH_END HOST_END SEED RULE…`.
pub fn main(arguments: &[String]) -> Result<(), LabError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["http-server", address, port, log] => {
            match run_server(
                (number::<Ipv4Addr>(address)?, number(port)?),
                Path::new(log),
            )? {}
        }
        ["load", address, port, requests, connections, rate, seed] => {
            let report = run_load(&LoadOptions {
                server: (number(address)?, number(port)?),
                requests: number(requests)?,
                connections: number::<u64>(connections)?.max(1),
                rate: number::<u64>(rate)?.max(1),
                seed: number(seed)?,
            })?;
            println!("{}", report.to_json());
            Ok(())
        }
        ["faults", switch_end, host_end, seed, ref rules @ ..] => {
            let rules = rules.iter().map(|rule| {
                let rule = rule.parse::<Rule>();
                rule.map_err(|error| LabError::Argument(error.to_string()))
            });
            let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
            let report = faults::run([switch_end, host_end], number(seed)?, &rules)?;
            println!("{}", report.to_json());
            Ok(())
        }
        _ => Err(LabError::Argument(format!(
            "got {arguments:?}, expected `http-server ADDRESS PORT LOG`, `load ADDRESS PORT REQUESTS CONNECTIONS RATE SEED` or `faults SWITCH_END HOST_END SEED RULE…`"
        ))),
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, LabError> {
    word.parse().map_err(|_| {
        LabError::Argument(format!(
            "got {word:?}, expected {}",
            std::any::type_name::<T>()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arguments_are_named() {
        let call = |words: &[&str]| {
            main(
                &words
                    .iter()
                    .map(|&word| word.to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(
            call(&["load"])
                .unwrap_err()
                .to_string()
                .contains("expected `http-server")
        );
        let error = call(&["load", "10.0.0.1", "80", "many", "1", "1", "1"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"many\""), "{error}");
    }
}
