//! The pure core of Culex.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod error;
pub mod hash;
pub mod id;
pub mod packet;
pub mod time;
