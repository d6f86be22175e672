//! A disk in memory, which fails when the scenario says so and knows what was left on it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::scenario::Fault;
use super::watched::World;
use crate::spill::{Disk, DiskFile};

const NO_SPACE: i32 = nix::libc::ENOSPC;
const IO_ERROR: i32 = nix::libc::EIO;

/// The disk of all workers.
#[derive(Debug)]
pub(super) struct SimulatedDisk {
    world: Arc<World>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Vec<u8>>>>,
    creates: u64,
    writes: u64,
    reads: u64,
    bytes_written: u64,
}

impl SimulatedDisk {
    pub(super) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), state: Mutex::default() })
    }

    /// The files that were not removed.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.state.lock().files.keys().cloned().collect()
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.state.lock().bytes_written
    }

    fn fails(&self, fault: impl Fn(Fault) -> bool) -> bool {
        let found = self.world.faults.iter().copied().find(|&each| fault(each));
        if let Some(fault) = found {
            self.world.disk_fault(fault);
        }
        found.is_some()
    }
}

/// The disk as spill files see it.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<SimulatedDisk>);

impl Disk for Handle {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.state.lock();
        let number = state.creates;
        state.creates += 1;
        if self.0.fails(|fault| matches!(fault, Fault::CreateError { create } if create == number)) {
            return Err(io::Error::from_raw_os_error(IO_ERROR));
        }
        let bytes = Arc::default();
        if state.files.insert(path.to_path_buf(), Arc::clone(&bytes)).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Arc::new(OpenFile { disk: Arc::clone(&self.0), bytes }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.state.lock().files.remove(path).map_or_else(|| Err(io::ErrorKind::NotFound.into()), |_| Ok(()))
    }
}

/// An open file. It outlives its name.
#[derive(Debug)]
struct OpenFile {
    disk: Arc<SimulatedDisk>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl DiskFile for OpenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let number = state.writes;
        state.writes += 1;
        state.bytes_written += bytes.len() as u64;
        let written = state.bytes_written;
        if self.disk.fails(|fault| matches!(fault, Fault::Full { bytes } if written > bytes)) {
            return Err(io::Error::from_raw_os_error(NO_SPACE));
        }
        if self.disk.fails(|fault| matches!(fault, Fault::WriteError { write } if write == number)) {
            return Err(io::Error::from_raw_os_error(IO_ERROR));
        }
        drop(state);
        let (start, mut file) = (offset as usize, self.bytes.lock());
        let end = start + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let number = {
            let mut state = self.disk.state.lock();
            state.reads += 1;
            state.reads - 1
        };
        if self.disk.fails(|fault| matches!(fault, Fault::ReadError { read } if read == number)) {
            return Err(io::Error::from_raw_os_error(IO_ERROR));
        }
        if self.disk.fails(|fault| matches!(fault, Fault::ShortRead { read } if read == number)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = self.bytes.lock();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let Some(found) = file.get(start..end) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        bytes.copy_from_slice(found);
        if !bytes.is_empty() && self.disk.fails(|fault| matches!(fault, Fault::Damage { read } if read == number)) {
            let (at, bit) = ((number as usize).wrapping_mul(7919) % bytes.len(), number % 8);
            bytes[at] ^= 1 << bit;
        }
        Ok(())
    }
}
