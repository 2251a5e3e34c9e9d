//! Any bytes at all keep the rules that the fuzz targets check.

use crate::support;
use proptest::prelude::*;

proptest! {
    #[test]
    fn packets_in(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        support::packets_in(&data);
    }

    #[test]
    fn responses_in(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        support::responses_in(&data);
    }

    #[test]
    fn interleavings(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        support::interleavings(&data);
    }
}
