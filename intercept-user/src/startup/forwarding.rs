//! IP forwarding, which would carry responses on to real clients once the program has gone.

use std::fs;
use std::path::Path;

/// Settings under `proc` (normally `/proc`) by which a response arriving on `ifname` would be
/// forwarded if this program did not take it, as sysctl names: `net.ipv4.ip_forward` and the
/// interface's own (ip-sysctl, `forwarding`), which can differ from it.
pub fn forwarding_settings(proc: &Path, ifname: &str) -> Vec<String> {
    let sys = proc.join("sys");
    [
        "net/ipv4/ip_forward".to_owned(),
        format!("net/ipv4/conf/{ifname}/forwarding"),
        "net/ipv6/conf/all/forwarding".to_owned(),
        format!("net/ipv6/conf/{ifname}/forwarding"),
    ]
    .into_iter()
    .filter(|name| fs::read_to_string(sys.join(name)).is_ok_and(|v| !matches!(v.trim(), "0" | "")))
    // sysctl(8): dots of interface names are written as slashes.
    .map(|name| {
        name.split('/')
            .map(|part| part.replace('.', "/"))
            .collect::<Vec<_>>()
            .join(".")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("intercept-{}-{name}", std::process::id()));
        for (file, value) in files {
            let path = root.join("sys").join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, value).expect("file");
        }
        root
    }

    #[test]
    fn only_settings_that_are_on_are_named() {
        let root = proc(
            "forwarding",
            &[
                ("net/ipv4/ip_forward", "0\n"),
                ("net/ipv4/conf/eth0.5/forwarding", "1\n"),
                ("net/ipv4/conf/eth1/forwarding", "1\n"),
                ("net/ipv6/conf/all/forwarding", "1\n"),
            ],
        );
        let on = forwarding_settings(&root, "eth0.5");
        fs::remove_dir_all(&root).expect("clean up");
        assert_eq!(
            on,
            [
                "net.ipv4.conf.eth0/5.forwarding",
                "net.ipv6.conf.all.forwarding"
            ]
        );
    }

    #[test]
    fn a_host_without_the_files_is_fine() {
        assert!(forwarding_settings(Path::new("/nonexistent"), "eth0").is_empty());
    }
}
