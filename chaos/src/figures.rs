//! What this process holds, as the system sees it, and whether a figure grows.

use std::fs;

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open files, sockets and the like.
    pub descriptors: u64,
}

impl Figures {
    /// Those of this process; zeros where the system does not tell.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // The handle that lists them is one of them.
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64 - 1);
        Self {
            resident_bytes: field("VmRSS:").unwrap_or(0) * 1024,
            threads: field("Threads:").unwrap_or(0),
            descriptors,
        }
    }
}

/// By how much `y` grows for each 1 of `x`: the line of least squares through the points. 0 for fewer than two.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope_and_a_flat_one_none() {
        let line: Vec<_> = (0..50).map(|x| (f64::from(x), 3.0 + 0.25 * f64::from(x))).collect();
        assert!((slope(&line) - 0.25).abs() < 1e-12);
        let noise: Vec<_> = (0..50).map(|x| (f64::from(x), if x % 2 == 0 { 1.0 } else { -1.0 })).collect();
        assert!(slope(&noise).abs() < 0.01);
        assert_eq!(slope(&[(1.0, 1.0)]), 0.0);
    }

    #[test]
    fn a_process_has_threads_memory_and_open_files() {
        let before = Figures::now();
        assert!(before.resident_bytes > 1 << 20 && before.threads > 0);
        let file = fs::File::open("/proc/self/status").expect("a file");
        assert!(Figures::now().descriptors > before.descriptors);
        drop(file);
    }
}
