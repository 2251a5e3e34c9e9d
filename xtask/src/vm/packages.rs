//! QEMU, busybox and kernels from the machine's own Debian mirror, unpacked and not installed.
//!
//! The mirror is the one that apt is configured with, under other suite names: kernels of the next release's
//! backports, which has the newest, and of this release. Archives replace versions, so they are found through
//! the metapackages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::quiet;
use crate::{Result, paths};

/// Where Debian keeps its own keys; a mirror carries the same signatures.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The release on which this recipe is proven: QEMU comes from its backports (igb needs QEMU 8).
const RELEASE: &str = "bookworm";
const QEMU_SUITE: &str = "bookworm-backports";
/// virtio_net zero-copy is in kernels from 6.13 on.
const NEWEST_SUITE: &str = "trixie-backports";

/// A kernel.
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// Bootable image.
    pub image: PathBuf,
    /// Folder of its modules.
    pub modules: PathBuf,
    /// The newest, of which everything is expected; else the old one.
    pub newest: bool,
}

/// What was fetched.
pub struct Packages {
    /// Root of the unpacked tools.
    pub tools: PathBuf,
    /// Newest first.
    pub kernels: Vec<Kernel>,
}

/// Fetches what is not there yet.
pub fn fetch() -> Result<Packages> {
    let apt = Apt::new()?;
    let tools = apt.folder.join("root-tools");
    if !tools.join("done").exists() {
        let _ = fs::remove_dir_all(&tools);
        apt.unpack_with_dependencies(&tools)?;
        fs::write(tools.join("done"), "")?;
    }
    let mut kernels = Vec::new();
    for (suite, meta, newest) in [
        (NEWEST_SUITE, "linux-image-amd64", true),
        (RELEASE, "linux-image-cloud-amd64", false),
    ] {
        let release = apt.kernel_release(suite, meta)?;
        let root = apt.folder.join(format!("root-{release}"));
        if !root.join("done").exists() {
            let _ = fs::remove_dir_all(&root);
            // New packaging: image and modules apart, without boot loader scripts.
            let names = if newest {
                vec![
                    format!("linux-binary-{release}"),
                    format!("linux-modules-{release}"),
                ]
            } else {
                vec![format!("linux-image-{release}")]
            };
            apt.unpack(&names, &root)?;
            fs::write(root.join("done"), "")?;
        }
        let places = [
            format!("usr/lib/modules/{release}/vmlinuz"),
            format!("boot/vmlinuz-{release}"),
        ];
        let image = places
            .iter()
            .map(|place| root.join(place))
            .find(|image| image.exists())
            .ok_or_else(|| format!("no kernel image in the packages of {release}"))?;
        let modules = ["usr/lib/modules", "lib/modules"]
            .iter()
            .map(|place| root.join(place).join(&release))
            .find(|folder| folder.join("kernel").exists())
            .ok_or_else(|| format!("no modules in the packages of {release}"))?;
        kernels.push(Kernel {
            release,
            image,
            modules,
            newest,
        });
    }
    Ok(Packages { tools, kernels })
}

/// apt with lists and cache of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new() -> Result<Self> {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = os
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        if codename != Some(RELEASE) {
            return Err(format!(
                "guests need Debian {RELEASE}, whose packages they are made of; got {codename:?}: run this there, \
                 or leave guests out with `cargo xtask test --without-vm`"
            )
            .into());
        }
        let mirror = mirror()?;
        let folder = paths::target().join("vm");
        let apt = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(apt.join(part))?;
        }
        let sources = [RELEASE, QEMU_SUITE, NEWEST_SUITE]
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .concat();
        fs::write(apt.join("sources.list"), sources)?;
        let place = |name: &str, value: &str| format!("{name}={}", apt.join(value).display());
        let options = vec![
            place("Dir::Etc::SourceList", "sources.list"),
            place("Dir::Etc::SourceParts", "parts"),
            place("Dir::State::Lists", "lists"),
            place("Dir::Cache", "cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Nothing is installed, so nobody's lock is needed, and the folder may be closed to apt's user.
            "Debug::NoLocking=1".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self { folder, options };
        let updated = quiet(apt.command("apt-get").arg("update"));
        updated.map_err(|error| {
            format!(
                "cannot fetch the lists of {RELEASE}, {QEMU_SUITE} and {NEWEST_SUITE} from {mirror}, where QEMU and \
                 kernels come from: {error}; give apt a mirror that has them"
            )
        })?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// What the metapackage of a suite stands for.
    fn kernel_release(&self, suite: &str, meta: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["-t", suite, "depends", meta])
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .find(|release| release.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
            .ok_or_else(|| {
                format!("apt's mirror has no {meta} in {suite}; give it one that has").into()
            })
    }

    /// QEMU with what this system lacks of its libraries, and busybox.
    fn unpack_with_dependencies(&self, root: &Path) -> Result<()> {
        let archives = self.folder.join("apt/cache/archives");
        quiet(self.command("apt-get").args([
            "install",
            "--yes",
            "--download-only",
            // Else nothing is fetched where it is installed.
            "--reinstall",
            "--no-install-recommends",
            "-t",
            QEMU_SUITE,
            "qemu-system-x86",
        ]))?;
        quiet(
            self.command("apt-get")
                .args(["download", "busybox-static"])
                .current_dir(&archives),
        )?;
        extract(&archives, root)
    }

    fn unpack(&self, names: &[String], root: &Path) -> Result<()> {
        let archives = self.folder.join("apt/cache/archives");
        quiet(
            self.command("apt-get")
                .arg("download")
                .args(names)
                .current_dir(&archives),
        )?;
        extract(&archives, root)
    }
}

/// Unpacks and deletes all archives of a folder.
fn extract(archives: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            quiet(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The mirror that the machine is configured with.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(CODENAME) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix(RELEASE)?.strip_prefix(' '))
        .map(str::to_owned)
        .ok_or_else(|| {
            format!("apt has no mirror of {RELEASE}: add one to /etc/apt/sources.list").into()
        })
}
