//! A QEMU guest and the shell in it.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lab::{Lab, Process};

use super::{
    nics::Nic,
    packages::{Kernel, Packages},
};
use crate::{Result, paths};

/// Boot takes 5 to 18 s; other work may share the cores. A kernel that hangs says so after 27 s.
const BOOT_LIMIT: Duration = Duration::from_mins(1);
/// Longest command: stopping a program, with its drain.
const COMMAND_LIMIT: Duration = Duration::from_secs(45);
/// A tenth of it must do for the programs (their default for -m); each driver queue takes 1 MiB.
const MEMORY_MIB: &str = "1024";
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A running guest; dropping it kills QEMU.
pub struct Guest {
    qemu: Process,
    shell: BufReader<UnixStream>,
    console: PathBuf,
    commands: u32,
    silent: bool,
}

impl Guest {
    /// Boots and waits for the shell. QEMU runs on the switch, where the taps are, and dies with us.
    pub fn boot(
        lab: &Lab,
        packages: &Packages,
        kernel: &Kernel,
        initramfs: &Path,
        nics: &[Nic],
    ) -> Result<Self> {
        let console = lab.file("console.log");
        let socket = lab.file("shell.sock");
        let listener = UnixListener::bind(&socket)?;
        let tools = &packages.tools;
        let mut command = lab.switch().command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nice", "-n", "19"])
            .arg(tools.join("usr/bin/qemu-system-x86_64"))
            .env("LD_LIBRARY_PATH", library_path(tools))
            .env(
                "QEMU_MODULE_DIR",
                tools.join("usr/lib/x86_64-linux-gnu/qemu"),
            )
            .arg("-L")
            .arg(tools.join("usr/share/qemu"))
            .arg("-L")
            .arg(tools.join("usr/share/seabios"))
            .args([
                "-M",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-m",
                MEMORY_MIB,
                "-smp",
                "4",
            ])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args([
                "-append",
                "console=ttyS0 panic=-1 oops=panic loglevel=5 net.ifnames=0",
            ])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-chardev")
            .arg(format!("socket,id=shell,path={}", socket.display()))
            .args(["-serial", "chardev:shell"]);
        let mut numbered: Vec<_> = nics.iter().enumerate().collect();
        // Those with a place of their own first, the others go around it.
        numbered.sort_by_key(|(_, nic)| !nic.has_place());
        for (number, nic) in numbered {
            command.arg("-netdev").arg(format!(
                "tap,id=n{number},ifname={},script=no,downscript=no,vhost=off,queues={}",
                nic.name, nic.queues
            ));
            command.arg("-device").arg(format!(
                "{},netdev=n{number},romfile=,mac={}",
                nic.device(),
                mac(number)
            ));
        }
        let mut qemu = Process::start("qemu", &mut command, lab.folder())?;
        let deadline = Instant::now() + BOOT_LIMIT;
        listener.set_nonblocking(true)?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = qemu.ended()? {
                return Err(format!("QEMU ended ({status}): {}", qemu.stderr()).into());
            }
            if Instant::now() > deadline {
                return Err("QEMU did not connect its serial line".into());
            }
            std::thread::sleep(LOOK_EVERY);
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        let mut guest = Self {
            qemu,
            shell: BufReader::new(stream),
            console,
            commands: 0,
            silent: false,
        };
        guest.wait_until_ready(deadline)?;
        guest.name_interfaces(nics)?;
        Ok(guest)
    }

    /// Until the guest has its line open: of what is written before, the shell may get a part.
    fn wait_until_ready(&mut self, deadline: Instant) -> Result<()> {
        let mut bytes = Vec::new();
        while Instant::now() < deadline {
            match self.shell.read_until(b'\n', &mut bytes) {
                Ok(0) => break,
                Ok(_) if bytes.trim_ascii().ends_with(b"ready") => return Ok(()),
                Ok(_) => bytes.clear(),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(format!(
            "no shell came up: {} {}",
            self.qemu.stderr(),
            self.last_words()
        )
        .into())
    }

    /// The kernel numbers interfaces as drivers come: they get their names by their addresses.
    fn name_interfaces(&mut self, nics: &[Nic]) -> Result<()> {
        let names: Vec<String> = nics
            .iter()
            .enumerate()
            .map(|(number, nic)| format!("{} {}", mac(number), nic.name))
            .collect();
        let names = names.join("\n");
        self.run(&format!(
            "while read mac name; do for old in /sys/class/net/*; do
             if grep -q $mac $old/address; then ip link set ${{old##*/}} name $name; ip link set $name up; fi
             done; done << END\n{names}\nEND"
        ))
        .map(drop)
    }

    /// Waits for the link: some cards take it down when a program is attached or a socket bound.
    pub fn wait_for_link(&mut self, interface: &str) -> Result<()> {
        self.run(&format!(
            "for i in $(seq 100); do [ \"$(cat /sys/class/net/{interface}/carrier)\" = 1 ] && break; sleep 0.1; done
             [ \"$(cat /sys/class/net/{interface}/carrier)\" = 1 ]"
        ))
        .map(drop)
    }

    /// Runs a command line; its output if it succeeds. A guest that once did not answer in time is not asked
    /// again: the cases that are left fail at once.
    pub fn run(&mut self, line: &str) -> Result<String> {
        if self.silent {
            return Err("the guest did not answer an earlier command".into());
        }
        let start = Instant::now();
        let answer = self.ask(line, COMMAND_LIMIT);
        self.silent = answer.is_err() && start.elapsed() >= COMMAND_LIMIT;
        answer
    }

    fn ask(&mut self, line: &str, limit: Duration) -> Result<String> {
        self.commands += 1;
        let mark = format!("@@{}@@", self.commands);
        // Not in a subshell: `$!` and jobs belong to the shell that is asked later.
        let text = format!("{{ {line}\n}} < /dev/null 2>&1; echo \"{mark}$?\"\n");
        self.shell.get_mut().write_all(text.as_bytes())?;
        let deadline = Instant::now() + limit;
        let (mut output, mut bytes) = (String::new(), Vec::new());
        loop {
            match self.shell.read_until(b'\n', &mut bytes) {
                Ok(0) => return Err(format!("the guest is gone: {}", self.last_words()).into()),
                Ok(_) => {
                    let got = String::from_utf8_lossy(&bytes).into_owned();
                    bytes.clear();
                    if let Some((before, status)) = got.split_once(&mark) {
                        output.push_str(before);
                        return if status.trim() == "0" {
                            Ok(output)
                        } else {
                            Err(format!(
                                "in the guest: `{line}` ended with {}: {output}",
                                status.trim()
                            )
                            .into())
                        };
                    }
                    output.push_str(&got);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if Instant::now() > deadline {
                        return Err(format!(
                            "in the guest: `{line}` took too long: {output}; {}",
                            self.last_words()
                        )
                        .into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts a program in the background; its output goes to `/tmp/<name>.log`. Waits for the line "ready".
    pub fn start(&mut self, name: &str, line: &str) -> Result<()> {
        self.run(&format!(
            "{line} > /tmp/{name}.log 2>&1 & echo $! > /tmp/{name}.pid
             for i in $(seq 100); do grep -q ready /tmp/{name}.log && break
             kill -0 $(cat /tmp/{name}.pid) || break; sleep 0.2; done
             grep -q ready /tmp/{name}.log || {{ tail -n 5 /tmp/{name}.log; false; }}"
        ))
        .map(drop)
    }

    /// Waits for a text in the log of a program.
    pub fn wait_for_log(&mut self, name: &str, text: &str) -> Result<()> {
        self.run(&format!(
            "for i in $(seq 100); do grep -q '{text}' /tmp/{name}.log && break; sleep 0.1; done
             grep -q '{text}' /tmp/{name}.log || {{ echo 'no line with: {text}'; false; }}"
        ))
        .map(drop)
    }

    /// Sends a signal and waits for the end; the log.
    pub fn stop(&mut self, name: &str, signal: &str) -> Result<String> {
        self.run(&format!(
            "kill -{signal} $(cat /tmp/{name}.pid); wait $(cat /tmp/{name}.pid); rm /tmp/{name}.pid; cat /tmp/{name}.log"
        ))
    }

    /// Kills what a case that failed has left running, and takes the addresses of `interfaces`.
    pub fn clear(&mut self, interfaces: &[&str]) -> Result<()> {
        let names = interfaces.join(" ");
        self.run(&format!(
            "for file in /tmp/*.pid; do [ -e $file ] && kill -9 $(cat $file) && wait $(cat $file); rm -f $file; done
             for name in {names}; do ip addr flush dev $name; done"
        ))
        .map(drop)
    }

    /// Warnings and worse of the kernel, by its own words. Left out: virtio_net without its control queue's
    /// offload commands cannot stop merging, which generic XDP wants and warns of.
    pub fn warnings(&mut self) -> Result<String> {
        self.run(
            "dmesg | grep -E 'WARNING|BUG|Oops|refcount' | grep -v generic_xdp_install | head -n 5; true",
        )
    }

    fn last_words(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        lab::world::last_lines(&String::from_utf8_lossy(&bytes), 8)
    }
}

/// Address of the nth card.
pub fn mac(number: usize) -> String {
    format!("52:54:00:00:00:{:02x}", number + 1)
}

fn library_path(tools: &Path) -> String {
    let tools = paths::workspace().join(tools);
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|place| tools.join(place).display().to_string())
        .join(":")
}
