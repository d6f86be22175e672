//! The command line from the outside: the binary as a process, as a shell runs it.

mod ends;
mod formats;
mod progress;
mod queries;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a command left behind.
struct Ran {
    status: i32,
    out: String,
    errors: String,
}

/// A folder, in which commands run.
struct Shell {
    folder: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file in the folder, and its name.
    fn with_file<'a>(&self, name: &'a str, text: &str) -> &'a str {
        std::fs::write(self.path(name), text).expect("there is room");
        name
    }

    /// The command line of `arguments`, run in the folder, with its own folder for what it spills.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().expect("the binary is there"))
    }

    /// Runs what should go well.
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{arguments:?}");
        ran.out
    }

    fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).expect("text"),
            errors: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The main example's table: `id`, `category`, `value`.
fn large_data(rows: usize) -> String {
    let mut text = String::from("id,category,value\n");
    for row in 0..rows {
        writeln!(text, "{row},cat_{},{}.0", row % 100, row % 1000).expect("a text takes what it is given");
    }
    text
}
