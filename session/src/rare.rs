//! What few sessions need at a time: kept apart, so that the others do not pay for it.
//!
//! ```text
//!  Session ──RareSlot──▶ Rare { recovery, ahead, on_the_way, reset }   while one of these is in use
//!                          ▲ │
//!                          └─▼ RarePool: given back empty, used again: no allocation in steady state
//! ```

use crate::receiver::OnTheWay;
use crate::sender::Recovery;
use crate::state::CapturedReset;
use crate::stream::Ahead;

/// Most parts that wait for their next user (about 300 bytes each); further ones are freed.
const SPARE: usize = 8192;

#[derive(Default)]
pub(crate) struct Rare {
    /// Loss towards the target.
    pub(crate) recovery: Recovery,
    /// Captured behind a hole.
    pub(crate) ahead: Ahead,
    /// Acknowledgements of an emulated client far away.
    pub(crate) on_the_way: OnTheWay,
    /// The client was cut off; so will be the target, after everything before it is delivered.
    pub(crate) reset: Option<CapturedReset>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        !self.recovery.is_active()
            && self.ahead.is_empty()
            && self.on_the_way.is_empty()
            && self.reset.is_none()
    }
}

/// A session's rare part, if it has one.
#[derive(Default)]
pub(crate) struct RareSlot(Option<Box<Rare>>);

impl RareSlot {
    #[inline]
    pub(crate) fn get(&self) -> Option<&Rare> {
        self.0.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut Rare> {
        self.0.as_deref_mut()
    }

    /// The rare part, from the pool if there was none.
    pub(crate) fn need(&mut self, pool: &mut RarePool) -> &mut Rare {
        self.0
            .get_or_insert_with(|| pool.spare.pop().unwrap_or_default())
    }

    /// Gives the part back if nothing of it is in use.
    #[inline]
    pub(crate) fn tidy(&mut self, pool: &mut RarePool) {
        if let Some(rare) = self.0.take_if(|rare| rare.is_empty()) {
            pool.keep(rare);
        }
    }

    /// Gives the part back, whatever it says. Its chunks must have been released.
    pub(crate) fn clear(&mut self, pool: &mut RarePool) {
        if let Some(mut rare) = self.0.take() {
            *rare = Rare::default();
            pool.keep(rare);
        }
    }
}

/// Parts without a user.
#[derive(Default)]
pub(crate) struct RarePool {
    #[expect(clippy::vec_box, reason = "boxes move between here and the sessions")]
    spare: Vec<Box<Rare>>,
}

impl RarePool {
    fn keep(&mut self, rare: Box<Rare>) {
        if self.spare.len() < SPARE {
            self.spare.push(rare);
        }
    }
}
