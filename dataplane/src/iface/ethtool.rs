//! Questions to the driver: `SIOCETHTOOL`, include/uapi/linux/ethtool.h.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::AsRawFd;

const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
/// Words of `struct ethtool_rxfh_indir` before the table: command and size.
const INDIR_HEAD: usize = 2;
/// Entries: many times the largest table of a NIC (mlx5 has up to 32768), against a size that is none.
const MAX_INDIR: u32 = 1 << 17;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    pub(super) rx_count: u32,
    pub(super) tx_count: u32,
    other_count: u32,
    pub(super) combined_count: u32,
}

/// Queues in use; none if the driver does not say.
pub(super) fn channels(name: &str) -> Option<Channels> {
    const WORDS: usize = size_of::<Channels>() / size_of::<u32>();
    let mut words = [0; WORDS];
    words[0] = ETHTOOL_GCHANNELS;
    ask(name, &mut words).then(|| bytemuck::cast(words))
}

/// The receive queue of each entry of the RSS indirection table; none if the driver has no such table.
pub(super) fn rss_indirection(name: &str) -> Option<Vec<u32>> {
    // Size 0 asks for the size (net/ethtool/ioctl.c, ethtool_get_rxfh_indir).
    let mut head = [ETHTOOL_GRXFHINDIR, 0];
    if !ask(name, &mut head) || !(1..=MAX_INDIR).contains(&head[1]) {
        return None;
    }
    let mut words = vec![0; INDIR_HEAD + head[1] as usize];
    words[..INDIR_HEAD].copy_from_slice(&head);
    // Fails if the table has grown meanwhile.
    ask(name, &mut words).then(|| words.split_off(INDIR_HEAD))
}

/// One of the two commands above, which begins `words`; the answer is written over them.
fn ask(name: &str, words: &mut [u32]) -> bool {
    let own = match *words {
        [ETHTOOL_GCHANNELS, ..] => size_of_val(words) == size_of::<Channels>(),
        [ETHTOOL_GRXFHINDIR, size, ..] => words.len() == INDIR_HEAD + size as usize,
        _ => false,
    };
    if !own || name.len() >= libc::IFNAMSIZ {
        return false;
    }
    let Ok(socket) = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    ) else {
        return false;
    };
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL takes an ifreq with a terminated name (checked: shorter than the field) whose
    // data points at a struct that begins with its command. Checked above: ETHTOOL_GCHANNELS writes an
    // ethtool_channels, which `words` is as long as; ETHTOOL_GRXFHINDIR writes the head and at most as many
    // entries as the head's size says, which `words` has room for. Both outlive the call.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_driver_has_no_answers() {
        assert_eq!(rss_indirection("lo"), None);
        assert_eq!(rss_indirection("a name that is far too long"), None);
        assert!(channels("nosuch0").is_none());
    }

    #[test]
    fn buffers_that_the_kernel_would_overrun_are_not_passed_on() {
        assert!(!ask("lo", &mut [ETHTOOL_GCHANNELS, 0]));
        assert!(!ask("lo", &mut [ETHTOOL_GRXFHINDIR, 1]));
        assert!(!ask("lo", &mut [0, 0]));
    }
}
