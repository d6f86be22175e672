//! What `head` reads of a large file, as the system counts it. Alone in its file, so alone in its process: the
//! system counts by process.

use std::fmt::Write as _;
use std::fs;

use aqueduct::prelude::*;

/// Bytes that this process has read so far, from files and all else.
fn bytes_read() -> u64 {
    let counters = fs::read_to_string("/proc/self/io").expect("Linux counts what a process reads");
    let line = counters.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("bytes read");
    line.trim().parse().expect("a number")
}

#[test]
fn head_reads_kilobytes_whatever_the_size_of_the_file() {
    let mut text = String::from("id,category,value\n");
    for row in 0..1_000_000 {
        writeln!(text, "{row},cat_{},{}.0", row % 100, row % 1000).expect("a string takes what it is given");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large_data.csv");
    fs::write(&path, &text).expect("a file");
    for workers in [1, 2, 8] {
        let cluster = LocalCluster::builder().workers(workers).memory_limit("64MiB").progress(false).start();
        let cluster = cluster.expect("a small cluster");
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let read_by = |frame: &Frame, rows: usize, first: i64| {
            let before = bytes_read();
            let head = frame.head(rows).expect("the first rows");
            let read = bytes_read() - before;
            let expected: Vec<_> = (first..).take(rows).map(Some).collect();
            assert_eq!(head.i64s("id").expect("ids"), expected);
            read
        };
        let plain = read_by(&frame, 5, 0);
        let filtered = read_by(&frame.filter(col("id").gt_eq(lit(50))), 5, 50);
        let late = read_by(&frame.filter(col("id").gt_eq(lit(100_000))), 5, 100_000);
        let size = text.len() as u64;
        println!("{workers} workers: {plain}, {filtered} and {late} of {size} bytes");
        assert!(plain < 256 << 10, "{workers} workers: {plain} bytes");
        // Each reader begins a piece of its own, and the pieces grow.
        let most = if workers == 1 { 1 << 20 } else { size };
        assert!(filtered < most, "{workers} workers: {filtered} of {size} bytes");
        // The row is 2 MB into the file.
        assert!(late < size, "{workers} workers: {late} of {size} bytes");
    }
}
