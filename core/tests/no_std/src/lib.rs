//! A program without `std` that runs a broker. It brings the panic handler that `std` brings elsewhere: if anything
//! below were built with `std` there would be two of them, and this would not compile.
#![no_std]

extern crate alloc;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use culex_core::{Broker, Config, Now, Peer, Seed, Stack};

/// Enough to be built: nobody runs it.
struct NoMemory;

// SAFETY: a null pointer is how an allocator says that there is no memory, so there is nothing to give back either.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static MEMORY: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Everything from bytes in to bytes out; returns how many came out.
#[unsafe(no_mangle)]
pub extern "C" fn culex_no_std() -> usize {
    let now = Now::default();
    let mut broker = Broker::new(Arc::new(Config::default()), Stack::durable(), Seed(0), now);
    let Ok(id) = broker.accept(now, Peer::default()) else { return 0 };
    broker.receive(now, id, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00");
    while broker.poll_action().is_some() {}
    let mut written = 0;
    while let Some(transmit) = broker.poll_transmit() {
        let count = transmit.len();
        written += count;
        transmit.written(count);
    }
    written
}
