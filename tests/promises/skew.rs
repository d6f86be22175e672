//! Uneven data: one hot key, one large file. The answer is right within the limit, and no core waits for another.

use std::path::Path;

use aqueduct::arrow::array::AsArray;
use aqueduct::arrow::datatypes::{Float64Type, Int64Type};
use aqueduct::prelude::*;

use crate::{SMALL_BYTES, assert_clean, cluster, folder, for_each_text, shuffled, within, write_lines};

mod heavy {
    use super::*;

    #[test]
    fn one_key_with_nine_rows_of_ten_is_grouped_within_small_limits() {
        const COLD_KEYS: usize = 100_000;
        within(110, || {
            let folder = folder();
            // Rows below COLD_KEYS have a key of their own, the others are the hot one's.
            let lines = shuffled(10 * COLD_KEYS).into_iter().map(|row| match row as usize {
                cold if cold < COLD_KEYS => format!("cold_{cold},{}.25", cold % 100),
                hot => format!("hot,{}.5", hot % 10),
            });
            let path = write_lines(&folder.path().join("hot.csv"), "name,value", lines);
            let mut seen = vec![false; COLD_KEYS];
            let cluster = cluster(2, SMALL_BYTES);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let frame = frame.group_by("name").agg([mean(col("value")).alias("m"), count(col("value")).alias("n")]);
            let mut hot = None;
            for batch in frame.stream().expect("a stream") {
                let batch = batch.expect("groups");
                let means = batch.column(1).as_primitive::<Float64Type>();
                let counts = batch.column(2).as_primitive::<Int64Type>();
                for_each_text(batch.column(0), |row, name| match name.expect("no null").strip_prefix("cold_") {
                    Some(number) => {
                        let number: usize = number.parse().expect("a number");
                        assert!(!std::mem::replace(&mut seen[number], true), "cold_{number} came twice");
                        assert_eq!((means.value(row), counts.value(row)), ((number % 100) as f64 + 0.25, 1));
                    }
                    None => assert_eq!(hot.replace((means.value(row), counts.value(row))), None, "hot came twice"),
                });
            }
            assert_eq!(hot, Some((5.0, 9 * COLD_KEYS as i64)));
            assert!(seen.iter().all(|seen| *seen), "a cold key is missing");
            assert_clean(&cluster);
        });
    }
}

mod alone {
    use super::*;

    /// Rows of each of the seven small files; the eighth has ten times as many.
    const ROWS: usize = 150_000;

    fn uneven_files(folder: &Path) {
        for file in 0..8 {
            let rows = if file == 3 { 10 * ROWS } else { ROWS };
            let lines = (0..rows).map(|row| format!("{row},cat_{},{}.0", row % 100, row % 1000));
            write_lines(&folder.join(format!("part-{file}.csv")), "id,category,value", lines);
        }
    }

    #[test]
    fn both_workers_scan_to_the_end_where_one_file_of_eight_is_ten_times_larger() {
        within(110, || {
            let folder = folder();
            uneven_files(folder.path());
            let cluster = cluster(2, 64 << 20);
            let frame = cluster.read_csv(folder.path().join("part-*.csv")).expect("the files");
            let mut rows = frame.group_by("category").sum("value").stream().expect("a stream");
            let (mut groups, mut total) = (0, 0.0);
            for batch in rows.by_ref() {
                let batch = batch.expect("sums");
                groups += batch.num_rows();
                total += batch.column(1).as_primitive::<Float64Type>().values().iter().sum::<f64>();
            }
            assert_eq!((groups, total), (100, 17.0 * (ROWS / 1000) as f64 * 499_500.0));
            // A stream that has ended belongs to a job that is about to.
            aqueduct::runtime::testing::eventually("the job ends", || {
                rows.job().state() == aqueduct::runtime::metrics::JobState::Finished
            });
            let metrics = rows.job().metrics();
            let scans: Vec<_> = metrics.tasks.iter().filter(|task| task.name.contains("part")).collect();
            for task in &metrics.tasks {
                println!(
                    "{} {} on {}: busy {:?} of {:?}",
                    task.name, task.partition, task.worker, task.busy, metrics.elapsed
                );
            }
            assert_eq!(scans.len(), 2, "a scan per worker");
            for scan in scans {
                let share = scan.busy.as_secs_f64() / metrics.elapsed.as_secs_f64();
                assert!(share > 0.85, "{} at partition {} is busy {share:.2} of the time", scan.name, scan.partition);
            }
            assert_clean(&cluster);
        });
    }
}
