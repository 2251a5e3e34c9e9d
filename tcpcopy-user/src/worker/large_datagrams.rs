//! Datagrams that are larger than the way's MTU leave as their clients sent them: in IP fragments.

use common::packet::{
    ETH_HEADER_BYTES, FragmentedFrame, FrameAddresses, UdpFrame, build_udp_frame,
};
use dataplane::Transmit;
use session::UdpDrop;

/// What the length field of an IP header can say.
const MAX_PACKET_BYTES: usize = u16::MAX as usize;

/// What a worker needs for that.
pub(super) struct LargeDatagrams {
    /// Identification of the last one. Workers take turns in the numbers, since they may share addresses.
    id: u32,
    workers: u32,
    /// The whole frame; no memory until the first.
    whole: Vec<u8>,
}

impl LargeDatagrams {
    /// For a worker by its number, and that of all.
    pub(super) const fn new((id, workers): (u32, u32)) -> Self {
        Self {
            id,
            workers,
            whole: Vec::new(),
        }
    }

    /// Queues the fragments, packets of at most `mtu` bytes.
    #[cold]
    pub(super) fn send(
        &mut self,
        port: &mut dyn Transmit,
        macs: FrameAddresses,
        datagram: &UdpFrame<'_>,
        mtu: u16,
    ) -> Result<(), UdpDrop> {
        self.whole.resize(ETH_HEADER_BYTES + MAX_PACKET_BYTES, 0);
        let not_built = |_| UdpDrop::NotBuilt;
        let len = build_udp_frame(&mut self.whole, macs, datagram).map_err(not_built)?;
        self.id = self.id.wrapping_add(self.workers);
        let whole = self.whole.get(..len).unwrap_or_default();
        let mut pieces = FragmentedFrame::new(whole, mtu, self.id).ok_or(UdpDrop::NotBuilt)?;
        while !pieces.is_done() {
            let buffer = port.reserve().ok_or(UdpDrop::NoFrame)?;
            let len = pieces.write_next(buffer).map_err(not_built)?;
            port.commit(len);
        }
        Ok(())
    }
}
