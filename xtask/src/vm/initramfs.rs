//! The guest's root: busybox, the very programs that were built, their libraries, and drivers.
//!
//! The programs are not linked statically for it: a second build would take minutes and test other binaries
//! than those that are shipped. Their libraries are copied to where the loader looks.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lab::replay::Programs;

use super::{
    packages::{Kernel, Packages},
    quiet,
};
use crate::{Result, paths};

/// Drivers in the order of their needs. Those that a kernel has built in, or not at all, are left out.
const MODULES: [&str; 28] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "dca",
    "i2c-algo-bit",
    "igb",
    "llc",
    "stp",
    "mrp",
    "garp",
    "8021q",
    "tls",
    "bonding",
    "nfnetlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
];

/// The lab's tool in the guest: this very program.
pub const LAB_TOOL: &str = "lab-tool";

/// The shell that is talked to is on the second serial line; the first has the kernel's messages. Its output goes
/// through a pipe: with a terminal on both sides it would be interactive, and echo what it is told. `arp_ignore`: several
/// cards are on the same switch, and only that with the address may answer for it (the kernel's ip-sysctl.rst). The
/// line is held open from "ready" on: half a command, of which the rest came before that, is a syntax error, which ends a shell.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mkdir -p /sys/fs/bpf
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox --install -s /bin
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
ip link set lo up
ulimit -l unlimited
stty -F /dev/ttyS1 115200 raw -echo clocal
exec 3<>/dev/ttyS1
echo ready >&3
sh <&3 2>&1 | cat >&3
";

/// Builds the image for a kernel; `tools` are more programs for the guest.
pub fn build(
    packages: &Packages,
    kernel: &Kernel,
    programs: &Programs,
    tools: &[PathBuf],
) -> Result<PathBuf> {
    let folder = paths::target().join("vm");
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for part in ["bin", "modules"] {
        fs::create_dir_all(tree.join(part))?;
    }
    let busybox = ["usr/bin/busybox", "bin/busybox"]
        .iter()
        .map(|place| packages.tools.join(place))
        .find(|path| path.exists())
        .ok_or("the package busybox-static has no busybox")?;
    fs::copy(busybox, tree.join("bin/busybox"))?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;

    let mut libraries = BTreeSet::new();
    // Busybox's ip knows no bonds, and it has neither ethtool nor nft.
    let executables = [
        programs.tcpcopy.clone(),
        programs.intercept.clone(),
        which("ethtool")?,
        which("ip")?,
        which("nft")?,
    ];
    for program in executables.iter().chain(tools) {
        let name = program.file_name().ok_or("a program without a name")?;
        // Busybox's --install takes /bin/ip. Of this program the lab's server is called.
        let name = match name.to_str() {
            Some("ip") => "real-ip",
            Some("xtask") => LAB_TOOL,
            Some(name) => name,
            None => return Err("a program with a name that is no text".into()),
        };
        quiet(
            Command::new("strip")
                .arg("-o")
                .arg(tree.join("bin").join(name))
                .arg(program),
        )?;
        libraries.extend(needed(program)?);
    }
    for library in libraries {
        let place = tree.join(library.strip_prefix("/")?);
        fs::create_dir_all(place.parent().ok_or("a library without a folder")?)?;
        fs::copy(&library, place)?;
    }
    symlink("/bin", tree.join("sbin"))?;
    modules(kernel, &tree.join("modules"))?;

    let image = folder.join(format!("{}.cpio", kernel.release));
    let listing = "find . | cpio --quiet -o -H newc > \"$1\"";
    quiet(
        Command::new("sh")
            .args(["-c", listing, "sh"])
            .arg(&image)
            .current_dir(&tree),
    )?;
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

fn which(program: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{program} is not installed").into())
}

/// Shared libraries and loader, as the loader finds them.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// Unpacks the drivers that there are, with a list of them in order.
fn modules(kernel: &Kernel, into: &Path) -> Result<()> {
    let found = Command::new("find")
        .arg(kernel.modules.join("kernel"))
        .args(["-name", "*.ko*"])
        .output()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let mut order = String::new();
    for module in MODULES {
        let names = [format!("/{module}.ko"), format!("/{module}.ko.xz")];
        let Some(path) = found
            .lines()
            .find(|path| names.iter().any(|name| path.ends_with(name)))
        else {
            continue;
        };
        let place = into.join(format!("{module}.ko"));
        if Path::new(path).extension().is_some_and(|e| e == "xz") {
            let output = Command::new("xz")
                .args(["-dc", path])
                .stderr(Stdio::inherit())
                .output()?;
            fs::write(place, output.stdout)?;
        } else {
            fs::copy(path, place)?;
        }
        order.push_str(module);
        order.push('\n');
    }
    fs::write(into.join("order"), order)?;
    Ok(())
}
