//! Bytes that nobody in their right mind would give to the runtime, each with what must hold all the same.
//!
//! The bodies of the fuzz targets in `fuzz/`, which panic where a promise is broken; and [`replay`], with which tests take the
//! corpus there, and what chance makes of it, through the same functions.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::codec;
use crate::config::{format_bytes, parse_bytes};
use crate::io::Io;
use crate::memory::MemoryPool;
use crate::spill::{Disk, DiskFile, Fetched, SpillDir};
use crate::testing::simulator::Random;
use crate::testing::{number_schema, numbers};

/// Gives `run` all files of the fuzz target `target`, and then as many inputs that are made of them by chance as
/// `AQUEDUCT_MUTATIONS` says, 300 unless set; `AQUEDUCT_SEED` says which. Unlike a fuzzer it does not look at what they
/// reach.
///
/// # Panics
///
/// As `run` does; the input is shown and kept in the system's temporary folder.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(corpus).expect("a corpus").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let seeds: Vec<_> = files.iter().map(|file| std::fs::read(file).expect("a file")).collect();
    assert!(!seeds.is_empty(), "there is no corpus for {target}");
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut random = Random::new(number("AQUEDUCT_SEED", 0));
    let mutations = (0..number("AQUEDUCT_MUTATIONS", 300)).map(|_| mutated(&seeds, &mut random));
    for input in seeds.iter().cloned().chain(mutations) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&input))) {
            let kept = std::env::temp_dir().join(format!("aqueduct-{target}-{:08x}", crc32fast::hash(&input)));
            let _ = std::fs::write(&kept, &input);
            println!("{}: {}", kept.display(), input.escape_ascii());
            resume_unwind(panic);
        }
    }
}

/// One of `seeds` with some bytes changed, left out, said again, or taken from another one.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 10] =
        [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];
    let mut input = seeds[random.index(seeds.len())].clone();
    for _ in 0..1 + random.index(6) {
        let other = &seeds[random.index(seeds.len())];
        let at = random.index(input.len() + 1);
        let end = (at + 1 + random.index(16)).min(input.len());
        let from = random.index(other.len() + 1);
        let to = (from + 1 + random.index(32)).min(other.len());
        match random.index(7) {
            0 if at < input.len() => input[at] ^= 1 << random.index(8),
            1 if at < input.len() => input[at] = random.index(256) as u8,
            2 if at < end => drop(input.drain(at..end)),
            3 if at < end => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 if from < to => drop(input.splice(at..at, other[from..to].iter().copied())),
            5 if from < to => drop(input.splice(at..end.max(at), other[from..to].iter().copied())),
            _ => {
                let number = NUMBERS[random.index(NUMBERS.len())].to_le_bytes();
                let length = (1 << random.index(4)).min(input.len() - at);
                input[at..at + length].copy_from_slice(&number[..length]);
            }
        }
        input.truncate(4096);
    }
    input
}

/// A disk whose one file can be exchanged behind its reader's back.
#[derive(Debug, Clone, Default)]
struct Exchanged(Arc<Mutex<Vec<u8>>>);

impl Disk for Exchanged {
    fn create(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.clone()))
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Exchanged {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.lock();
        file.truncate(offset as usize);
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.0.lock();
        let found = file.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Reads a spill file in which bytes were exchanged: `data` is whether it is compressed, what is cut
/// off its end, and then places and values. What
/// comes back is what was written, or an error.
pub fn spill_file(data: &[u8]) {
    let [kind, keep, edits @ ..] = data else { return };
    let disk = Exchanged::default();
    let (io, by_hand) = Io::by_hand();
    let workspace = MemoryPool::new(usize::MAX).account("workspace");
    let space = SpillDir::nowhere(Arc::new(disk.clone()), None, kind % 2 == 1).space(io, workspace);
    let mut file = space.create("hostile", number_schema());
    let written = numbers(0..64);
    let place = file.append(&written).expect("an empty disk");
    while let Some(work) = by_hand.take() {
        work();
    }
    let changed = {
        let mut bytes = disk.0.lock();
        let before = bytes.clone();
        let length = before.len();
        bytes.truncate(length - usize::from(*keep) % length);
        for edit in edits.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % length;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = edit[2];
            }
        }
        *bytes != before
    };
    let mut fetch = file.fetch(place);
    while let Some(work) = by_hand.take() {
        work();
    }
    match fetch.poll() {
        Ok(Fetched::Ready(batch)) => assert_eq!(batch, written),
        Ok(Fetched::Blocked(_)) => panic!("the work was done"),
        // CRC-32 finds every error of up to 32 bits in a row, and all but one in four milliards of the others.
        Err(error) => assert!(changed, "nothing was changed: {error}"),
    }
}
/// Decodes `data` as values of several types: what is decoded is encoded as the same bytes or decoded as the same value.
pub fn encoded(data: &[u8]) {
    fn there_and_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(value) = codec::decode::<T>(data) {
            let bytes = codec::encode(&value).expect("it was decoded");
            assert_eq!(codec::decode::<T>(&bytes).expect("as encoded"), value);
        }
    }
    there_and_back::<([u8; 4], u64, u64, bool, u64, u32)>(data);
    there_and_back::<(String, Vec<Option<i64>>)>(data);
    there_and_back::<Vec<(String, String, bool)>>(data);
    there_and_back::<Vec<Vec<u8>>>(data);
}

/// Reads `data` as a size: a positive number of bytes, which can be shown, or an error that quotes it.
pub fn sizes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse_bytes(text) {
        Ok(bytes) => {
            assert!(bytes > 0);
            assert!(!format_bytes(bytes).is_empty());
            assert_eq!(parse_bytes(&bytes.to_string()).ok(), Some((bytes as f64) as usize));
            assert_eq!(parse_bytes(&format!(" {text}\t")).ok(), Some(bytes), "blanks do not matter");
        }
        Err(error) => assert!(error.to_string().contains(text), "{error}"),
    }
}
