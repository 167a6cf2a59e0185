//! Where chance comes from: outside, so that tests can do without it.

use alloc::boxed::Box;
use core::fmt;

/// Fills a buffer with bytes that nobody can guess.
pub(crate) type Entropy = Box<dyn FnMut(&mut [u8]) -> Result<(), NoEntropy> + Send>;

/// There is no entropy to be had: whoever asked for some is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEntropy;

impl fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no entropy to be had")
    }
}

impl core::error::Error for NoEntropy {}

/// The entropy of the operating system.
///
/// # Errors
/// The system has none to give.
#[cfg(feature = "std")]
pub fn os_entropy(buffer: &mut [u8]) -> Result<(), NoEntropy> {
    getrandom::fill(buffer).map_err(|_| NoEntropy)
}
