//! Receive offloads by which packets do not come as they were on the wire.
//!
//! Most do no harm and are not named: the tap runs behind GRO, and what GRO, LRO or the card merged is whole and is
//! cut again; a tag that the card took off the tap finds in the metadata; sums are made anew.

use crate::cli::CaptureKind;

/// What is to be done about a receive offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Its name in the kernel.
    pub feature: &'static str,
    /// As `ethtool -K` takes it.
    pub option: &'static str,
    /// What it breaks.
    pub breaks: &'static str,
}

/// Offloads that merge packets in the card. Those that a driver cannot do together with XDP it either switches off
/// itself or refuses XDP for (virtio-net, ixgbe, mlx5, bnxt); generic mode is what remains then.
const MERGING: [Offload; 2] = [
    Offload {
        feature: "rx-lro",
        option: "lro",
        breaks: "the driver refuses native XDP with it, and generic mode is slower",
    },
    Offload {
        feature: "rx-gro-hw",
        option: "rx-gro-hw",
        breaks: "the driver refuses native XDP with it, and generic mode is slower",
    },
];
/// The card takes tags off before XDP sees the frame, and XDP has no word for them.
const UNTAGGING: [Offload; 2] = [
    Offload {
        feature: "rx-vlan-hw-parse",
        option: "rxvlan",
        breaks: "the card takes VLAN tags off, so that no frame matches 'vlan' in the filter",
    },
    Offload {
        feature: "rx-vlan-stag-hw-parse",
        option: "rx-vlan-stag-hw-parse",
        breaks: "the card takes service tags off, so that no frame matches 'vlan' in the filter",
    },
];
/// The card decrypts records in place (kTLS): their headers and lengths then enclose plain text.
const DECRYPTING: Offload = Offload {
    feature: "tls-hw-rx-offload",
    option: "tls-hw-rx-offload",
    breaks: "requests of TLS connections whose keys the card has are captured decrypted",
};

/// Those that break the capture, of the `features` that are on. `filter` is `-F`; `native` is false if a mirror's
/// program was refused by the driver.
pub fn offloads_in_the_way(
    capture: CaptureKind,
    filter: Option<&str>,
    native: bool,
    features: &[String],
) -> Vec<Offload> {
    let words = |text: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| word == "vlan")
    };
    let by_tag = filter.is_some_and(words);
    let mut all = vec![DECRYPTING];
    if capture == CaptureKind::Mirror {
        all.extend(MERGING.iter().filter(|_| !native));
        all.extend(UNTAGGING.iter().filter(|_| by_tag));
    }
    all.retain(|offload| features.iter().any(|f| f == offload.feature));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_breaks_something_is_named() {
        let on = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let all = on(&[
            "rx-gro",
            "rx-checksum",
            "rx-lro",
            "rx-gro-hw",
            "rx-vlan-hw-parse",
            "rx-vlan-stag-hw-parse",
        ]);
        let of = |capture, filter, native, features: &[String]| {
            offloads_in_the_way(capture, filter, native, features)
                .iter()
                .map(|o| o.option)
                .collect::<Vec<_>>()
        };
        let (tap, mirror) = (CaptureKind::Tap, CaptureKind::Mirror);
        for (capture, filter, native, expected) in [
            (tap, Some("vlan 7"), true, &[][..]),
            (mirror, None, true, &[]),
            (mirror, None, false, &["lro", "rx-gro-hw"]),
            (
                mirror,
                Some("(vlan and ip)"),
                true,
                &["rxvlan", "rx-vlan-stag-hw-parse"],
            ),
            (mirror, Some("host vlan7.example"), true, &[]),
        ] {
            assert_eq!(of(capture, filter, native, &all), expected, "{filter:?}");
            assert_eq!(
                of(capture, filter, native, &on(&["rx-gro"])),
                &[] as &[&str]
            );
        }
        let tls = on(&["tls-hw-rx-offload"]);
        assert_eq!(of(tap, None, true, &tls), ["tls-hw-rx-offload"]);
    }
}
