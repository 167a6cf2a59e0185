//! Tests that cross crates: each file in `tests/` holds one subject, for instance the differential test of the codec.
