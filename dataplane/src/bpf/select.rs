//! Which sessions a capture program takes, of those that match a transfer.

use std::borrow::BorrowMut;
use std::collections::HashSet;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use common::abi::{DenyKey, MAX_DENIED, PORT_WORDS, PortWord, ProgramConfig, config_flags};
use common::flow::{Block, Shard, Share};
use common::packet::Endpoint;

use super::error::chain;
use super::{BpfError, load};

const DENY: &str = "DENY";

/// The choice of sessions. All packets of a session get the same answer.
#[derive(Clone, Copy, Debug)]
pub struct Sessions<'a> {
    /// Sessions of this shard only.
    pub shard: Shard,
    /// And of these a share.
    pub share: Share,
    /// Clients that are left alone; `None` if there never are any, which costs nothing.
    pub deny: Option<&'a [Block]>,
}

impl Default for Sessions<'_> {
    /// All of them.
    fn default() -> Self {
        Self {
            shard: Shard::WHOLE,
            share: Share::ALL,
            deny: None,
        }
    }
}

impl Sessions<'_> {
    /// The program's configuration with this choice in it.
    pub(super) fn put_into(&self, mut config: ProgramConfig) -> ProgramConfig {
        if self.deny.is_some() {
            config.flags |= config_flags::DENY;
        }
        config.selecting(self.shard, self.share)
    }

    /// Fills the program's maps: `transfers`, their ports, and the denied clients. Before the program is
    /// attached, so that it never runs without.
    pub(super) fn put_maps(&self, ebpf: &mut Ebpf, transfers: &[Endpoint]) -> Result<(), BpfError> {
        put_ports(ebpf, transfers)?;
        let exact: Vec<Endpoint> = transfers
            .iter()
            .filter(|t| !t.addr.is_any())
            .copied()
            .collect();
        load::put_endpoints(ebpf, "TRANSFERS", &exact)?;
        let mut map: DenyMap<&mut MapData> = load::borrow(ebpf, DENY)?;
        let blocks: HashSet<Block> = self.deny.iter().copied().flatten().copied().collect();
        check_size(&blocks)?;
        blocks.iter().try_for_each(|block| insert(&mut map, *block))
    }

    /// Takes the filled list of denied clients out of the loaded program, if there is to be one.
    pub(super) fn deny_list(
        &self,
        take: impl FnOnce(&'static str) -> Result<DenyMap<MapData>, BpfError>,
    ) -> Result<Option<DenyList>, BpfError> {
        let Some(blocks) = self.deny else {
            return Ok(None);
        };
        Ok(Some(DenyList {
            map: take(DENY)?,
            blocks: blocks.iter().copied().collect(),
        }))
    }
}

type DenyMap<T> = LpmTrie<T, [u8; 16], u32>;

fn check_size(blocks: &HashSet<Block>) -> Result<(), BpfError> {
    if blocks.len() > MAX_DENIED as usize {
        return Err(BpfError::TooManyEndpoints {
            map: DENY,
            got: blocks.len(),
            max: MAX_DENIED,
        });
    }
    Ok(())
}

fn insert<T: BorrowMut<MapData>>(map: &mut DenyMap<T>, block: Block) -> Result<(), BpfError> {
    map.insert(&key(block), 0, 0).map_err(|e| BpfError::Map {
        map: DENY,
        action: "insert a block",
        error: chain(&e),
    })
}

/// The clients that a running program leaves alone.
pub struct DenyList {
    map: DenyMap<MapData>,
    blocks: HashSet<Block>,
}

impl DenyList {
    /// From now on `blocks` are denied and nothing else. New blocks come first, so that a client that
    /// is denied before and after is denied all the time. After an error the list is what it could be
    /// made: some new blocks are in it, and no old one has gone.
    pub fn replace(&mut self, blocks: &[Block]) -> Result<(), BpfError> {
        let wanted: HashSet<Block> = blocks.iter().copied().collect();
        check_size(&wanted)?;
        for block in &wanted {
            if !self.blocks.contains(block) {
                insert(&mut self.map, *block)?;
                self.blocks.insert(*block);
            }
        }
        let gone: Vec<Block> = self.blocks.difference(&wanted).copied().collect();
        for block in gone {
            self.map.remove(&key(block)).map_err(|e| BpfError::Map {
                map: DENY,
                action: "remove a block",
                error: chain(&e),
            })?;
            self.blocks.remove(&block);
        }
        Ok(())
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

fn key(block: Block) -> Key<[u8; 16]> {
    let DenyKey { bits, addr } = DenyKey::new(block);
    Key::new(bits, addr.0)
}

/// Marks the ports of transfers.
fn put_ports(ebpf: &mut Ebpf, transfers: &[Endpoint]) -> Result<(), BpfError> {
    let mut words = [PortWord::default(); PORT_WORDS as usize];
    for transfer in transfers {
        if let Some(word) = words.get_mut(PortWord::index(transfer.port) as usize) {
            let bits = if transfer.addr.is_any() {
                &mut word.any
            } else {
                &mut word.exact
            };
            *bits |= PortWord::bit(transfer.port);
        }
    }
    let mut map: Array<_, [u64; 2]> = load::borrow(ebpf, "PORTS")?;
    for (index, word) in (0u32..).zip(words) {
        if word == PortWord::default() {
            continue;
        }
        let word: [u64; 2] = bytemuck::cast(word);
        map.set(index, word, 0).map_err(|e| BpfError::Map {
            map: "PORTS",
            action: "mark a port",
            error: chain(&e),
        })?;
    }
    Ok(())
}
