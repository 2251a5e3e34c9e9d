//! Sequence number arithmetic (RFC 9293 section 3.4: all comparisons modulo 2^32).

/// A TCP sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Signed distance from `earlier` to `self`, positive if `self` is later. Right as long as the two
    /// are less than 2^31 apart; never panics, whatever a peer sends.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// `self` lies before `other`.
    #[inline(always)]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// `self` lies after `other`.
    #[inline(always)]
    pub const fn after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// The later of both.
    #[inline(always)]
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if other.after(self) { other } else { self }
    }
}

impl core::ops::Add<u32> for SeqNumber {
    type Output = Self;
    #[inline(always)]
    fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }
}

impl core::ops::AddAssign<u32> for SeqNumber {
    #[inline(always)]
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl core::ops::Sub<u32> for SeqNumber {
    type Output = Self;
    #[inline(always)]
    fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }
}

impl core::fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}
