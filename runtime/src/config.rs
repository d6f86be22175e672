//! What a user sets: workers, threads, limits, folders. Sizes are bytes; [`parse_bytes`] reads `2GB`.

use std::path::PathBuf;

use crate::error::PlanError;

/// How a cluster of workers in this process is set up.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Workers: groups of threads with one memory limit each.
    pub workers: usize,
    /// Arbiters (threads that run operators) per worker.
    pub threads_per_worker: usize,
    /// Memory limit of each worker, in bytes.
    pub memory_limit_bytes: usize,
    /// Where spill files go; the system's folder for temporary files if `None`.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that all spill files of the cluster may take together; no limit if `None`.
    pub spill_limit_bytes: Option<u64>,
    /// Whether spill files are compressed with LZ4.
    pub spill_compression: bool,
}

impl Default for ClusterConfig {
    /// One worker per core with one thread, limits together 75 % of the smaller of RAM and the cgroup's limit.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers,
            threads_per_worker: 1,
            memory_limit_bytes: machine_memory_bytes() / 4 * 3 / workers,
            spill_dir: None,
            spill_limit_bytes: None,
            spill_compression: false,
        }
    }
}

/// The smaller of the machine's memory and the limit of this process's cgroup, in bytes.
pub fn machine_memory_bytes() -> usize {
    let ram = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()?.checked_mul(1024)
    });
    let own_cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup_files = own_cgroup.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next()?, parts.next()?) {
            ("", path) => Some(format!("/sys/fs/cgroup{path}/memory.max")),
            ("memory", path) => Some(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
            _ => None,
        }
    });
    let cgroup = cgroup_files
        .chain(["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(String::from))
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<usize>().ok())
        .min();
    // A machine that tells neither is taken for a small one.
    [ram, cgroup].into_iter().flatten().min().unwrap_or(2 << 30)
}

/// Reads a size in bytes: a number with an optional unit, as in `2GB`, `2 GB`, `512MiB`, `1.5g`, `64k`, `1024`.
///
/// `kB`, `MB`, `GB`, `TB` and the single letters are powers of 1000; `KiB`, `MiB`, `GiB`, `TiB` powers of
/// 1024, as in Dask. Case does not matter.
///
/// # Errors
///
/// [`PlanError::Config`] if the text is not a size, or not a positive one.
pub fn parse_bytes(text: &str) -> Result<usize, PlanError> {
    let wrong = || {
        PlanError::Config(format!(
            "`{text}` is not a size in bytes: write a positive number and a unit, such as `2GB` or `512MiB`"
        ))
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(trimmed.len());
    let number: f64 = trimmed[..split].replace('_', "").parse().map_err(|_| wrong())?;
    let factor = match trimmed[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1024.0 * 1024.0,
        "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "ti" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let bytes = number * factor;
    if bytes.is_finite() && (1.0..9e18).contains(&bytes) { Ok(bytes as usize) } else { Err(wrong()) }
}

/// Writes a size as people read it, in powers of 1024: `64.0 KiB`, `1.9 GiB`.
pub fn format_bytes(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_their_usual_spellings() {
        for (text, bytes) in [
            ("2GB", 2_000_000_000),
            ("2 GB", 2_000_000_000),
            ("2gb", 2_000_000_000),
            ("2G", 2_000_000_000),
            ("1.5MB", 1_500_000),
            ("512MiB", 512 << 20),
            ("16 mib", 16 << 20),
            ("4GiB", 4 << 30),
            ("64k", 64_000),
            ("1_000", 1000),
            ("1024B", 1024),
        ] {
            assert_eq!(parse_bytes(text).expect(text), bytes, "{text}");
        }
        for text in ["", "GB", "-1GB", "0", "2XB", "1..2", "1e9999", "nan", "inf", "9999999TB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_unit_that_fits() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (65_536, "64.0 KiB"), (1_048_575, "1.0 MiB"), (2_000_000_000, "1.9 GiB")];
        for (bytes, text) in cases {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn the_default_limits_leave_a_quarter_of_the_machine() {
        let config = ClusterConfig::default();
        assert!(config.workers * config.memory_limit_bytes <= machine_memory_bytes() / 4 * 3);
        assert!(config.memory_limit_bytes > 16 << 20);
    }
}
