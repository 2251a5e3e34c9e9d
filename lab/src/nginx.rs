//! nginx on a host of the lab, with an access log that can be compared.

use std::{fmt::Write as _, path::Path, time::Duration};

use crate::{
    LabError,
    traffic::{AccessLog, Entry},
    world::{Host, Lab, Process},
};

/// Binding a port takes milliseconds; the rest is for a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Answers are of this many bytes: more than a segment, so that they are trimmed and acknowledged in parts.
const ANSWER_BYTES: usize = 3000;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts one on `host` and waits until it listens on `port`.
    pub fn start(lab: &Lab, host: Host, port: u16) -> Result<Self, LabError> {
        Self::start_with(lab, host, port, "")
    }

    /// The same with more `directives` for its server. Where clients have other addresses at the other server,
    /// `set $lab_client word;` keeps them out of the log.
    pub fn start_with(
        lab: &Lab,
        host: Host,
        port: u16,
        directives: &str,
    ) -> Result<Self, LabError> {
        let listen = format!("{}:{port}", host.address());
        Self::start_named(lab, host.name(), host, &listen, directives)
    }

    /// The same for a server of another `name`, which [`Self::log_named`] knows it by, and another address.
    pub fn start_named(
        lab: &Lab,
        name: &str,
        host: Host,
        listen: &str,
        directives: &str,
    ) -> Result<Self, LabError> {
        let name = format!("nginx-{name}");
        let folder = lab.file(&name);
        std::fs::create_dir_all(&folder).map_err(LabError::file(&folder))?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, configuration(&folder, listen, directives))
            .map_err(LabError::file(&config))?;
        let mut command = lab.command(host, "nginx");
        command
            .arg("-p")
            .arg(&folder)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(&config);
        let mut process = Process::start(&name, &mut command, lab.folder())?;
        let pid_file = folder.join("pid");
        // nginx writes its pid file once its sockets listen.
        process.wait_until("listening", READY_LIMIT, |_| pid_file.exists())?;
        Ok(Self { process })
    }

    /// The process, for waits.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The log so far of the nginx that runs, or ran, on `host`.
    pub fn log_of(lab: &Lab, host: Host) -> Result<AccessLog, LabError> {
        Self::log_named(lab, host.name())
    }

    /// The log so far of the nginx of that name.
    pub fn log_named(lab: &Lab, name: &str) -> Result<AccessLog, LabError> {
        read_log(&lab.file(&format!("nginx-{name}")).join("access.log"))
    }
}

/// The id is the argument `id`, the content everything that the client chose.
fn read_log(path: &Path) -> Result<AccessLog, LabError> {
    let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
    let entries = text
        .lines()
        .map(|line| entry(path, line))
        .collect::<Result<_, _>>()?;
    Ok(AccessLog::from_entries(entries))
}

fn entry(path: &Path, line: &str) -> Result<Entry, LabError> {
    let (id, content) = line.split_once(' ').ok_or_else(|| LabError::Form {
        path: path.to_owned(),
        got: format!("line {line:?}"),
        expected: "<id> <request>".to_owned(),
    })?;
    Ok(Entry {
        id: id.to_owned(),
        content: content.to_owned(),
        intact: true,
    })
}

fn configuration(folder: &Path, listen: &str, directives: &str) -> String {
    let folder = folder.display();
    let mut text = format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {folder}/pid;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         log_format lab '$arg_id $lab_client $request_method $request_uri $content_length \
         $http_user_agent $http_host $status';\n\
         access_log {folder}/access.log lab;\n\
         keepalive_requests 1000000;\nkeepalive_timeout 600s;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {folder}/{kind};");
    }
    let answer = ".".repeat(ANSWER_BYTES);
    let _ = writeln!(
        text,
        "server {{ listen {listen} backlog=4096 reuseport; set $lab_client $remote_addr; {directives} location / {{ return 200 '{answer}'; }} }}\n}}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_split_at_the_id() {
        let entry = entry(
            Path::new("log"),
            "wrk-1-2 10.77.2.1 GET /?id=wrk-1-2 - - lab 200",
        )
        .unwrap();
        assert_eq!(entry.id, "wrk-1-2");
        assert!(entry.content.starts_with("10.77.2.1 GET"));
        assert!(super::entry(Path::new("log"), "").is_err());
    }
}
