//! Ten seconds of the soak.

use std::process::Command;

#[test]
fn a_cluster_holds_no_more_after_ten_seconds_of_mixed_jobs_than_after_two() {
    let soak = Command::new(env!("CARGO_BIN_EXE_soak")).args(["--seconds", "10", "--lines", "5"]).output();
    let soak = soak.expect("it runs");
    println!("{}{}", String::from_utf8_lossy(&soak.stdout), String::from_utf8_lossy(&soak.stderr));
    assert!(soak.status.success());
}
