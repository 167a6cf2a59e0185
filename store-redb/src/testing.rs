//! A disk for tests: it knows what was synced, loses the rest in a power cut, and fails when it is told to.

use culex_core::hash::{Random, Seed};
use redb::StorageBackend;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A disk with one file, in memory. Clones are the same disk: one is given to the store, the other stays with the test.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// The file as a reader sees it.
    file: Vec<u8>,
    /// The file as it was when it was synced the last time, and what was done to it since.
    synced: Vec<u8>,
    since: Vec<Operation>,
    fault: Option<Fault>,
    syncs: u64,
}

#[derive(Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What goes wrong, until [`FaultyDisk::repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Syncs fail. Reads and writes do not, as in an operating system that has room in its memory.
    Sync,
    /// There is no room: the file cannot grow.
    Full,
}

/// What reaches the disk as a whole or not at all, in bytes.
const SECTOR: usize = 512;

impl FaultyDisk {
    /// From now on this goes wrong.
    pub fn fail(&self, fault: Fault) {
        self.disk().fault = Some(fault);
    }

    /// Nothing goes wrong any more.
    pub fn repair(&self) {
        self.disk().fault = None;
    }

    /// How often it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Another disk, with what the operating system would have written in the end: this one after `kill -9`.
    #[must_use]
    pub fn killed(&self) -> Self {
        let file = self.disk().file.clone();
        Self(Arc::new(Mutex::new(Disk { synced: file.clone(), file, ..Disk::default() })))
    }

    /// Another disk, with what is left of this one after a power cut: what was synced, and of what came after it some
    /// sectors, in no order.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut random = Random::new(Seed(seed));
        let mut file = disk.synced.clone();
        for operation in &disk.since {
            match operation {
                Operation::Length(length) if random.next().is_multiple_of(2) => file.resize(*length, 0),
                Operation::Length(_) => {}
                Operation::Write(offset, data) => {
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        let begin = offset + at * SECTOR;
                        let end = begin + sector.len();
                        if random.next().is_multiple_of(2) && end <= file.len() {
                            file[begin..end].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        Self(Arc::new(Mutex::new(Disk { synced: file.clone(), file, ..Disk::default() })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // Nothing in here is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64> {
        Ok(self.disk().file.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let disk = self.disk();
        let begin = offset as usize;
        let data = disk.file.get(begin..begin + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut disk = self.disk();
        let length = length as usize;
        if disk.fault == Some(Fault::Full) && length > disk.file.len() {
            return Err(Error::from(ErrorKind::StorageFull));
        }
        disk.file.resize(length, 0);
        disk.since.push(Operation::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut disk = self.disk();
        if disk.fault == Some(Fault::Sync) {
            return Err(Error::other("the disk was told to fail"));
        }
        disk.syncs += 1;
        let Disk { file, synced, since, .. } = &mut *disk;
        for operation in since.drain(..) {
            match operation {
                Operation::Length(length) => synced.resize(length, 0),
                Operation::Write(offset, data) => synced[offset..offset + data.len()].copy_from_slice(&data),
            }
        }
        debug_assert_eq!(file, synced);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut disk = self.disk();
        let begin = offset as usize;
        let place = disk.file.get_mut(begin..begin + data.len()).ok_or(ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        disk.since.push(Operation::Write(begin, data.to_vec()));
        Ok(())
    }
}
