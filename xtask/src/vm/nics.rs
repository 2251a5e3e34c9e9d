//! The network cards of the guests and what the programs are expected to make of them.
//!
//! ```text
//!   pairs   one card on the switch, one at production's mirror port: whole replays
//!   rows    one card, one option: which way is taken, and do frames arrive
//!   far     the card of a network namespace in the guest, which is a host of its own there
//! ```

/// virtio as hypervisors and clouds with zero-copy have it: VIRTIO_F_ACCESS_PLATFORM is what the driver asks for
/// before it maps foreign memory.
const ZERO_COPY: &str = "iommu_platform=on,disable-legacy=on";
/// What a device without control commands must not merge either, else the driver refuses native programs.
const NO_MERGING: &str =
    "guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off,guest_uso4=off,guest_uso6=off";

/// A network card: QEMU's device at this side, an interface of the same name as its tap in the guest.
#[derive(Clone)]
pub struct Nic {
    /// Of tap and interface.
    pub name: &'static str,
    /// Queue pairs; one tap file each.
    pub queues: u32,
    model: &'static str,
    options: String,
}

impl Nic {
    fn virtio(name: &'static str, queues: u32, options: &str) -> Self {
        Self {
            name,
            queues,
            model: "virtio-net-pci",
            options: options.to_owned(),
        }
    }

    /// Its eight virtual functions take the slots `slot` + 16 and + 17.
    fn igb(name: &'static str, slot: usize) -> Self {
        Self {
            name,
            queues: 1,
            model: "igb",
            options: format!("addr={slot}"),
        }
    }

    /// It says in which slot it must be.
    pub fn has_place(&self) -> bool {
        self.model == "igb"
    }

    /// As QEMU's `-device` wants it.
    pub fn device(&self) -> String {
        // Two interrupts a pair, one for the configuration, one for control commands.
        let vectors = 2 * self.queues + 2;
        let many = if self.queues > 1 {
            format!("mq=on,vectors={vectors}")
        } else {
            String::new()
        };
        let parts = [self.model, &many, &self.options];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// How the programs say that they receive.
#[derive(Clone, Copy)]
pub struct Way {
    /// Native, else generic XDP.
    pub native: bool,
    /// Queues with zero-copy.
    pub zero_copy: u32,
    /// Queues that are copied from.
    pub copied: u32,
}

impl Way {
    const fn new(native: bool, zero_copy: u32, copied: u32) -> Self {
        Self {
            native,
            zero_copy,
            copied,
        }
    }
}

/// Two cards for whole replays.
pub struct Pair {
    /// In the cases' names.
    pub name: &'static str,
    /// On the switch.
    pub switched: Nic,
    /// At the mirror port.
    pub mirrored: Nic,
    /// Its address on the switch; each its own, so that no cache of neighbours is stale.
    pub address: &'static str,
    /// What is expected of each.
    pub way: Way,
}

/// One card with an option.
pub struct Row {
    /// In the case's name.
    pub name: &'static str,
    /// The card.
    pub nic: Nic,
    /// Set before.
    pub mtu: u32,
    /// What is expected.
    pub way: Way,
    /// Words of the line that says why it is not native or not zero-copy.
    pub reason: Option<&'static str>,
}

/// Cards of whole replays.
pub fn pairs(newest: bool) -> Vec<Pair> {
    let pair = |name, address, way, nic: &dyn Fn(usize) -> Nic| Pair {
        name,
        switched: nic(0),
        mirrored: nic(1),
        address,
        way,
    };
    let four = if newest {
        Way::new(true, 4, 0)
    } else {
        // virtio_net has zero-copy from Linux 6.13 on.
        Way::new(true, 0, 4)
    };
    let mut pairs = vec![pair("virtio, 4 queues", "10.77.0.60", four, &|n| {
        Nic::virtio(["zc0", "zc1"][n], 4, ZERO_COPY)
    })];
    if newest {
        pairs.push(pair(
            "virtio without zero-copy, 4 queues",
            "10.77.0.62",
            Way::new(true, 0, 4),
            &|n| Nic::virtio(["nat0", "nat1"][n], 4, ""),
        ));
        // Native XDP takes a queue more for each of the four CPUs, of which the card has enough.
        pairs.push(pair(
            "virtio, 4 + 4 queues that attaching adds",
            "10.77.0.63",
            Way::new(true, 4, 4),
            &|n| Nic::virtio(["more0", "more1"][n], 8, ZERO_COPY),
        ));
        pairs.push(pair("igb", "10.77.0.64", Way::new(true, 4, 0), &|n| {
            Nic::igb(["igb0", "igb1"][n], 2 + 2 * n)
        }));
    }
    pairs
}

/// Cards with one option each.
pub fn rows(newest: bool) -> Vec<Row> {
    let row = |name, interface, options: String, way, reason| Row {
        name,
        nic: Nic::virtio(interface, 1, &options),
        mtu: 1500,
        way,
        reason,
    };
    let with = |options: &str| format!("{ZERO_COPY},{options}");
    let plain = ZERO_COPY.to_owned();
    let native = Way::new(true, 1, 0);
    let copied = Way::new(true, 0, 1);
    let generic = Way::new(false, 0, 1);
    let mut rows = vec![
        row(
            "no iommu_platform",
            "opt0",
            String::new(),
            copied,
            Some("Invalid argument"),
        ),
        row("iommu_platform", "opt1", plain.clone(), native, None),
        row("packed", "opt2", with("packed=on"), native, None),
        row(
            "mrg_rxbuf=off",
            "opt3",
            with("mrg_rxbuf=off"),
            generic,
            Some("takes a native XDP program but runs none"),
        ),
        row(
            "mrg_rxbuf=off, no merging",
            "opt4",
            with(&format!("mrg_rxbuf=off,{NO_MERGING}")),
            native,
            None,
        ),
        // A kernel takes a zero-copy bind behind a generic program, too; whether frames arrive then was not tried. It is not asked for.
        row(
            "ctrl_guest_offloads=off",
            "opt5",
            with("ctrl_guest_offloads=off"),
            generic,
            Some("the driver takes no native XDP program"),
        ),
        row(
            "ctrl_guest_offloads=off, no merging",
            "opt6",
            with(&format!(
                "ctrl_guest_offloads=off,guest_csum=off,{NO_MERGING}"
            )),
            native,
            None,
        ),
    ];
    let mut rss = row(
        "rss, hash",
        "opt7",
        String::new(),
        Way::new(true, 4, 0),
        None,
    );
    rss.nic = Nic::virtio("opt7", 4, &with("rss=on,hash=on"));
    let mut jumbo = row(
        "MTU 9000",
        "opt8",
        plain,
        copied,
        Some("Operation not supported"),
    );
    jumbo.mtu = 9000;
    rows.extend([rss, jumbo]);
    // Of the old kernel what it has beside the newest: it cannot be asked for zero-copy, but its features tell.
    rows.retain(|row| newest || row.name == "mrg_rxbuf=off");
    rows
}

/// The card of the namespace in the guest.
pub fn far() -> Nic {
    Nic::virtio("far0", 1, "")
}
