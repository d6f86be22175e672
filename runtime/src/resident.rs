//! Resident memory that no account pays for: what the system's allocator keeps, and the program's own text.
//!
//! At worker limits of some megabytes both are a good part of the whole, and both can be given back. Nothing here changes
//! what a program does: without it, it holds more. Only binaries that installed a
//! [`CountingAllocator`](crate::allocator::CountingAllocator) are touched: they have chosen to be judged by what they hold.

#![expect(unsafe_code, reason = "calls of libc that say how memory is kept, and not what is in it")]

use crate::allocator::is_installed;
use crate::config::ClusterConfig;

/// Worker limits up to this are small.
const SMALL_LIMIT_BYTES: usize = 32 << 20;
/// Blocks of this size and more go back to the system when they are freed, where memory is scarce.
#[cfg(target_env = "gnu")]
const RETURNED_BYTES: nix::libc::c_int = 32 * 1024;
/// What glibc begins with: this much may stay at the end of the heap.
#[cfg(target_env = "gnu")]
const TRIMMED_BYTES: nix::libc::c_int = 128 * 1024;
/// The most that glibc would come to by itself: blocks from here on go back, and twice that at the end of the heap.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: usize = 32 << 20;

/// Whether a cluster of `config` gives back what it can.
pub(crate) fn is_scarce(config: &ClusterConfig) -> bool {
    config.memory_limit_bytes <= SMALL_LIMIT_BYTES && is_installed()
}

/// Tells glibc what to keep of what is freed. By itself it keeps what was freed below its highest block, and gives back what is
/// above, and blocks as large as the largest that it has seen. At limits of some megabytes the first is a third more of
/// resident memory: then freed blocks go back at once, which costs a system call and fresh pages for each. Where there is
/// plenty, the second costs a fifth of a query of small batches: then it keeps an eighth of a worker's limit from the start.
/// What was set once glibc adapts no more, and the cluster that came last has its way.
#[cfg(target_env = "gnu")]
pub(crate) fn tell_allocator(config: &ClusterConfig) {
    if !is_installed() {
        return;
    }
    let (mapped, trimmed) = if is_scarce(config) {
        (RETURNED_BYTES, TRIMMED_BYTES)
    } else {
        let kept = (config.memory_limit_bytes / 8).min(KEPT_BYTES) as nix::libc::c_int;
        (kept, 2 * kept)
    };
    // SAFETY: no pointer is passed. Each call holds the lock of the first arena while it sets one word, and a thread that
    // allocates meanwhile reads the old value or the new one: each is a size to go by.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, mapped);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, trimmed);
    }
}

/// Another allocator goes by rules of its own.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn tell_allocator(_config: &ClusterConfig) {}

/// Gives back what a plan was made with and running it has no use for: free blocks of any size, and the program's text,
/// of which what runs on is mapped again as it is called, by a fault without a read for each 64 KiB.
pub(crate) fn release_planning() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed; only memory that is free is given back.
    unsafe {
        nix::libc::malloc_trim(0)
    };
    #[cfg(target_os = "linux")]
    forget_text();
}

/// Unmaps the pages of this program's text: they stay in the system's cache of its file.
#[cfg(target_os = "linux")]
fn forget_text() {
    let (Ok(program), Ok(maps)) = (std::fs::read_link("/proc/self/exe"), std::fs::read_to_string("/proc/self/maps"))
    else {
        return;
    };
    for (start, bytes) in maps.lines().filter_map(|line| text_of(line, &program)) {
        // SAFETY: the range is a whole mapping of a file that is private, executable and cannot be written to, so each of
        // its pages is as in the file, and is mapped from there again when it is next needed.
        unsafe { nix::libc::madvise(std::ptr::without_provenance_mut(start), bytes, nix::libc::MADV_DONTNEED) };
    }
}

/// Start and length of the mapping that a line of `/proc/self/maps` names, if it is text of `program`.
#[cfg(target_os = "linux")]
fn text_of(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let path = line.find('/').map(|at| &line[at..])?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights == "r-xp" && std::path::Path::new(path) == program).then_some((start, end.checked_sub(start)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_text_of_the_program_itself_is_found() {
        let program = Path::new("/opt/a program");
        let of = |line| text_of(line, program);
        assert_eq!(of("1000-3000 r-xp 00001000 fe:00 42      /opt/a program"), Some((0x1000, 0x2000)));
        for line in [
            "1000-3000 r--p 00001000 fe:00 42      /opt/a program",
            "1000-3000 rw-p 00001000 fe:00 42      /opt/a program",
            "1000-3000 rwxp 00001000 fe:00 42      /opt/a program",
            "1000-3000 r-xs 00001000 fe:00 42      /opt/a program",
            "1000-3000 r-xp 00001000 fe:00 42      /opt/a program (deleted)",
            "1000-3000 r-xp 00001000 fe:00 42      /usr/lib/libc.so.6",
            "1000-3000 r-xp 00000000 00:00 0       [vdso]",
            "1000-3000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    fn resident_text_bytes() -> usize {
        let program = std::fs::read_link("/proc/self/exe").expect("there is /proc");
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("there is /proc");
        let (mut is_text, mut bytes) = (false, 0);
        for line in maps.lines() {
            if line.split(' ').next().is_some_and(|range| range.contains('-')) {
                is_text = text_of(line, &program).is_some();
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| is_text) {
                bytes += 1024 * size.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kB");
            }
        }
        bytes
    }

    #[test]
    fn text_that_nobody_runs_is_resident_no_more() {
        // A great part of what there is.
        crate::Cluster::start(ClusterConfig::default()).expect("starts").close();
        let before = resident_text_bytes();
        forget_text();
        let after = resident_text_bytes();
        assert!(before > 0 && after < before * 2 / 3, "{after} bytes of {before} are left");
    }
}
