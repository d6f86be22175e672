//! A process whose descriptors are used up: jobs end with an error that says so or with the right rows, and the next runs.

use std::process::Command;

#[test]
fn a_job_without_descriptors_ends_with_an_error_that_says_so_and_the_next_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (victim, folder) = (env!("CARGO_BIN_EXE_victim"), folder.path());
    // The shell's limit holds for the process that takes its place.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128 && exec \"$0\" descriptors \"$1\"", victim]).arg(folder);
    let done = shell.output().expect("a shell");
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    println!("{out}{error}");
    assert!(done.status.success());
    assert!(out.contains("jobs ended with an error") && !out.contains("\n0 jobs"), "nothing was refused");
}
