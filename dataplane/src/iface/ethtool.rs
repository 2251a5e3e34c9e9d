//! Questions to the driver: `SIOCETHTOOL`, include/uapi/linux/ethtool.h.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::AsRawFd;

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// The string set of features (`ETH_SS_FEATURES`).
const FEATURE_STRINGS: u32 = 4;
/// Room for features: they are bits of a u64 in kernels so far (`netdev_features_t`).
const MAX_FEATURES: u32 = 512;
/// Words of `struct ethtool_sset_info` with one count, of `struct ethtool_gstrings` before the strings, and of a string (`ETH_GSTRING_LEN`).
const SET_INFO_WORDS: usize = 5;
const STRINGS_HEAD: usize = 3;
const STRING_WORDS: usize = 8;
/// Words of `struct ethtool_gfeatures` before the blocks of 32 features, and of a block (`struct
/// ethtool_get_features_block`), of which the third has those that are on.
const FEATURES_HEAD: usize = 2;
const BLOCK_WORDS: usize = 4;
const ACTIVE: usize = 2;
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

/// Names of the offloads that are on, such as `rx-lro`; none if the kernel does not say.
pub(super) fn features(name: &str) -> Option<Vec<String>> {
    // One set is asked for, by a mask of 64 bits, so one count is answered. Newer kernels want to be told it.
    let [low, high] = bytemuck::cast::<u64, [u32; 2]>(1 << FEATURE_STRINGS);
    let mut info = [ETHTOOL_GSSET_INFO, 0, low, high, 0];
    if !ask(name, &mut info) {
        return None;
    }
    let mut strings = vec![0; STRINGS_HEAD + MAX_FEATURES as usize * STRING_WORDS];
    strings[..STRINGS_HEAD].copy_from_slice(&[ETHTOOL_GSTRINGS, FEATURE_STRINGS, info[4]]);
    let blocks = MAX_FEATURES / u32::BITS;
    let mut words = vec![0; FEATURES_HEAD + blocks as usize * BLOCK_WORDS];
    words[..FEATURES_HEAD].copy_from_slice(&[ETHTOOL_GFEATURES, blocks]);
    if !ask(name, &mut strings) || !ask(name, &mut words) {
        return None;
    }
    let is_on = |bit: usize| {
        let block = FEATURES_HEAD + bit / 32 * BLOCK_WORDS;
        words
            .get(block + ACTIVE)
            .is_some_and(|word| word >> (bit % 32) & 1 != 0)
    };
    let text = |words: &[u32]| {
        let bytes = bytemuck::cast_slice::<u32, u8>(words);
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let names = strings.split_off(STRINGS_HEAD);
    let on = names.chunks(STRING_WORDS).enumerate();
    Some(
        on.filter(|(bit, _)| is_on(*bit))
            .map(|(_, name)| text(name))
            .collect(),
    )
}

/// One of the commands above, which begins `words`; the answer is written over them.
fn ask(name: &str, words: &mut [u32]) -> bool {
    let own = match *words {
        [ETHTOOL_GCHANNELS, ..] => size_of_val(words) == size_of::<Channels>(),
        [ETHTOOL_GRXFHINDIR, size, ..] => words.len() == INDIR_HEAD + size as usize,
        [ETHTOOL_GSSET_INFO, _, low, high, ..] => {
            words.len() == SET_INFO_WORDS && low.count_ones() + high.count_ones() == 1
        }
        // Room for many more than there are, whatever the count says.
        [ETHTOOL_GSTRINGS, FEATURE_STRINGS, ..] => {
            words.len() == STRINGS_HEAD + MAX_FEATURES as usize * STRING_WORDS
        }
        [ETHTOOL_GFEATURES, blocks, ..] => {
            words.len() == FEATURES_HEAD + blocks as usize * BLOCK_WORDS
        }
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
    // entries as the head's size says, which `words` has room for; ETHTOOL_GFEATURES the same with blocks;
    // ETHTOOL_GSSET_INFO as many counts as the mask has bits, one;
    // ETHTOOL_GSTRINGS writes the kernel's own number of features, far below MAX_FEATURES, for which there is room.
    // All outlive the call.
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
    fn loopback_says_what_is_on() {
        let on = features("lo").unwrap();
        // Fixed in drivers/net/loopback.c.
        assert!(on.iter().any(|f| f == "loopback"), "{on:?}");
        assert!(!on.iter().any(|f| f == "rx-lro"), "{on:?}");
        assert!(on.iter().all(|f| !f.is_empty()), "{on:?}");
        assert_eq!(features("nosuch0"), None);
    }

    #[test]
    fn buffers_that_the_kernel_would_overrun_are_not_passed_on() {
        assert!(!ask("lo", &mut [ETHTOOL_GCHANNELS, 0]));
        assert!(!ask("lo", &mut [ETHTOOL_GRXFHINDIR, 1]));
        assert!(!ask("lo", &mut [ETHTOOL_GSTRINGS, FEATURE_STRINGS, 64, 0]));
        assert!(!ask("lo", &mut [ETHTOOL_GFEATURES, 2, 0]));
        assert!(!ask("lo", &mut [ETHTOOL_GSSET_INFO, 0, 3, 0, 0]));
        assert!(!ask("lo", &mut [0, 0]));
    }
}
