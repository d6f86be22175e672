//! What may be written behind `aqueduct`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use aqueduct::ProgressFormat;
use aqueduct::runtime::parse_bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::output::Format;

const EXIT_STATUS: &str = "\
Exit status:
  0    all went well, or the reader of the output has gone away
  1    the query failed as it ran, or a file could not be read or written
  2    the command line is wrong
  3    the query is wrong, or asks for what this version cannot do
  4    the memory limit is too small for the query
  130  interrupted, by Ctrl-C or a signal; what was half written is removed";

/// SQL over files that are larger than memory.
#[derive(Debug, Parser)]
#[command(name = "aqueduct", version, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a query, and print its rows or write them to a file
    #[command(after_help = EXIT_STATUS)]
    Sql(Sql),
    /// Show how a query would run, without running it
    Explain(Explain),
    /// Print the first rows of a file
    Head(Head),
    /// Print the columns of a file
    Schema(Schema),
}

#[derive(Debug, Args)]
pub(crate) struct Sql {
    #[command(flatten)]
    pub(crate) query: Query,
    #[command(flatten)]
    pub(crate) workers: Workers,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Write figures of the run to FILE, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// Write what the query did to FILE, well or not: a page with its graph, a timeline, memory over time, and its plan
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// How progress is shown on standard error: by a bar where that is a terminal, as one JSON object a line, or not
    #[arg(long, value_name = "FORMAT", default_value = "bar")]
    pub(crate) progress: Progress,
    /// No progress bar, and no word about what was written
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// A bar, if standard error is a terminal
    Bar,
    /// One JSON object a line, twice a second; the last one says how the job ended
    Json,
    /// Nothing
    None,
}

impl Sql {
    /// How progress is to be shown.
    pub(crate) fn progress(&self) -> ProgressFormat {
        match self.progress {
            Progress::Bar if self.quiet => ProgressFormat::Hidden,
            Progress::Bar => ProgressFormat::Bar,
            Progress::Json => ProgressFormat::Json,
            Progress::None => ProgressFormat::Hidden,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) query: Query,
    #[command(flatten)]
    pub(crate) workers: Workers,
}

#[derive(Debug, Args)]
pub(crate) struct Head {
    /// A CSV or Parquet file, or a pattern such as 'logs/*.csv'
    pub(crate) file: PathBuf,
    /// How many rows
    #[arg(long = "lines", short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) lines: usize,
    /// How to print them
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// A CSV or Parquet file, or a pattern such as 'logs/*.csv'
    pub(crate) file: PathBuf,
}

/// Where the query and its tables come from.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The query; from standard input if neither this nor --file is given, or this is `-`
    #[arg(conflicts_with = "file")]
    pub(crate) query: Option<String>,
    /// Read the query from FILE
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Call the CSV or Parquet files at PATH by NAME in the query; may be given several times
    #[arg(long = "table", short, value_name = "NAME=PATH")]
    pub(crate) tables: Vec<NamedFile>,
}

/// What the query may use.
#[derive(Debug, Args)]
pub(crate) struct Workers {
    /// Workers, each with a memory limit of its own; one per core unless given
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Threads of each worker; one unless given
    #[arg(long, value_name = "N")]
    pub(crate) threads_per_worker: Option<NonZeroUsize>,
    /// Memory limit of each worker, such as 512MiB or 2GB; 75 % of the memory for all unless given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory_limit: Option<usize>,
    /// Folder for what does not fit in memory; the system's temporary folder unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) spill_dir: Option<PathBuf>,
    /// Serve a page that shows the query while it runs, and print its link
    #[arg(long)]
    pub(crate) dashboard: bool,
}

/// Where the rows go, and how they are written.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How the rows are written; as the extension of --output says, or a table, unless given
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Write the rows to FILE, which exists once all of them are written and not before
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Rows that a table shows at the most: 40 on a terminal and all elsewhere unless given; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) rows: Option<usize>,
}

/// A file and what the query calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFile {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, path)) if !name.trim().is_empty() && !path.is_empty() => {
                Ok(Self { name: name.trim().into(), path: path.into() })
            }
            _ => Err("write a name, `=` and a path, such as trips=data/trips.parquet".into()),
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    /// Words that mean something, and some that do not, in any order.
    #[test]
    fn any_arguments_are_taken_or_refused() {
        const WORDS: [&str; 40] = [
            "sql",
            "explain",
            "head",
            "schema",
            "select 1",
            "-",
            "--",
            "",
            "-n",
            "-t",
            "-o",
            "-f",
            "-q",
            "-h",
            "--lines",
            "--table",
            "--output",
            "--file",
            "--format",
            "--workers",
            "--threads-per-worker",
            "--memory-limit",
            "--spill-dir",
            "--rows",
            "--stats",
            "--quiet",
            "--dashboard",
            "--memory-limit=1e9",
            "--workers=0",
            "csv",
            "json",
            "0",
            "-1",
            "99999999999999999999",
            "2GB",
            "a=b",
            "=",
            "\u{e9}\u{0}",
            "--nothing",
            "a.csv",
        ];
        // SplitMix64: the same 20,000 command lines every time.
        let mut state = 0_u64;
        let mut below = |bound: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % bound as u64) as usize
        };
        let mut taken = 0;
        for _ in 0..20_000 {
            let words: Vec<_> = (0..below(7)).map(|_| WORDS[below(WORDS.len())]).collect();
            match Arguments::try_parse_from(["aqueduct"].into_iter().chain(words.iter().copied())) {
                Ok(_) => taken += 1,
                Err(error) => assert!(!error.to_string().is_empty(), "{words:?}"),
            }
        }
        assert!((100..19_900).contains(&taken), "{taken}");
    }

    #[test]
    fn a_named_file_is_a_name_and_a_path() {
        let parsed = "t=a=b.csv".parse::<NamedFile>().expect("a name and a path");
        assert_eq!(parsed, NamedFile { name: "t".into(), path: "a=b.csv".into() });
        for wrong in ["t", "=a.csv", "t="] {
            wrong.parse::<NamedFile>().expect_err(wrong);
        }
    }
}
