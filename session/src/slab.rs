//! Sessions by number, in pages: growing never moves what is there, and wastes at most a page.

/// Entries of a page: 50 KiB of sessions.
const PAGE: usize = 256;

pub(crate) struct Slab<T> {
    pages: Vec<Box<[Option<T>; PAGE]>>,
    free: Vec<u32>,
    /// Numbers below this were given out at least once.
    used: u32,
}

/// A page on the heap, never on the stack: `make` gives its entries by their place.
pub(crate) fn page<T, const N: usize>(make: impl FnMut(usize) -> T) -> Option<Box<[T; N]>> {
    let entries: Box<[T]> = (0..N).map(make).collect();
    entries.try_into().ok()
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Keeps `value`; returns its number, the one that came free last if there is any.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            let id = self.used;
            self.used += 1;
            if id as usize / PAGE >= self.pages.len() {
                self.pages.extend(page(|_| None));
            }
            id
        });
        if let Some(slot) = self.slot(id) {
            *slot = Some(value);
        }
        id
    }

    #[inline]
    fn slot(&mut self, id: u32) -> Option<&mut Option<T>> {
        let page = self.pages.get_mut(id as usize / PAGE)?;
        page.get_mut(id as usize % PAGE)
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.pages
            .get(id as usize / PAGE)?
            .get(id as usize % PAGE)?
            .as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slot(id)?.as_mut()
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.slot(id)?.take()?;
        self.free.push(id);
        Some(value)
    }

    /// Values that are kept.
    pub(crate) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// All numbers that were ever given out.
    pub(crate) fn ids(&self) -> std::ops::Range<u32> {
        0..self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_values_stay_theirs() {
        let mut s = Slab::default();
        let ids: Vec<u32> = (0..1000u32).map(|n| s.insert(n)).collect();
        assert_eq!(ids, (0..1000).collect::<Vec<_>>());
        assert_eq!((s.remove(7), s.remove(7), s.get(7)), (Some(7), None, None));
        assert_eq!(s.insert(2000), 7);
        assert_eq!(
            (s.get(7), s.get(999), s.get(5000)),
            (Some(&2000), Some(&999), None)
        );
        assert_eq!((s.ids(), s.len()), (0..1000, 1000));
    }
}
