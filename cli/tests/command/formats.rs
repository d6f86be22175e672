//! The formats of the output: what other software reads in them is what the query gave.

use std::fs::File;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Shell;

const ODD: &str = "text,n,x\n\"a, \"\"b\"\"\",1,0.5\n,2,\n\"two\nlines\",,-3.25\n";

#[test]
fn csv_and_json_keep_nulls_and_quotes() {
    let shell = Shell::new();
    shell.with_file("odd.csv", ODD);
    let csv = shell.ok(&["sql", "--format", "csv", "select * from 'odd.csv'"]);
    assert_eq!(csv, ODD);
    let json = shell.ok(&["sql", "--format", "json", "select * from 'odd.csv'"]);
    assert_eq!(
        json,
        "{\"text\":\"a, \\\"b\\\"\",\"n\":1,\"x\":0.5}\n{\"text\":null,\"n\":2,\"x\":null}\n\
         {\"text\":\"two\\nlines\",\"n\":null,\"x\":-3.25}\n"
    );
}

#[test]
fn a_table_is_drawn_with_nulls_and_control_characters_in_words() {
    let shell = Shell::new();
    shell.with_file("odd.csv", ODD);
    assert_eq!(
        shell.ok(&["sql", "select * from 'odd.csv'"]),
        "+------------+------+-------+\n\
         | text       |    n |     x |\n\
         +------------+------+-------+\n\
         | a, \"b\"     |    1 |   0.5 |\n\
         | NULL       |    2 |  NULL |\n\
         | two\\nlines | NULL | -3.25 |\n\
         +------------+------+-------+\n\
         (3 rows)\n"
    );
    let two = shell.ok(&["sql", "--rows", "2", "select n from 'odd.csv'"]);
    assert!(two.ends_with("(3 rows, the first 2 shown: --rows 0 shows all)\n"), "{two}");
}

#[test]
fn a_table_of_any_length_is_drawn_whole_where_there_is_no_terminal() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &crate::large_data(30_000));
    let table = shell.ok(&["sql", "select id, category from 'large_data.csv'"]);
    assert_eq!(table.lines().count(), 30_000 + 5);
    assert!(
        table.ends_with("| 29999 | cat_99   |\n+-----+----------+\n(30000 rows)\n"),
        "{}",
        &table[table.len() - 200..]
    );
}

#[test]
fn parquet_and_arrow_hold_the_rows_in_order() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &crate::large_data(50_000));
    let query = "select * from 'large_data.csv'";
    for (format, file) in [("parquet", "a.out"), ("arrow", "b.out"), ("arrow-stream", "c.out")] {
        let arguments = ["sql", "--quiet", "--memory-limit", "16MB", "--format", format, "--output", file, query];
        assert_eq!(shell.ok(&arguments), "");
    }
    let open = |name: &str| File::open(shell.path(name)).expect("it was written");
    let parquet = ParquetRecordBatchReaderBuilder::try_new(open("a.out")).expect("Parquet").build().expect("a reader");
    let arrow = FileReader::try_new(open("b.out"), None).expect("an Arrow file");
    let stream = StreamReader::try_new(open("c.out"), None).expect("an Arrow stream");
    let all: [Vec<RecordBatch>; 3] = [
        parquet.map(|batch| batch.expect("a batch")).collect(),
        arrow.map(|batch| batch.expect("a batch")).collect(),
        stream.map(|batch| batch.expect("a batch")).collect(),
    ];
    let file = std::io::BufReader::new(open("large_data.csv"));
    let schema = all[0][0].schema();
    let expected = arrow_csv::ReaderBuilder::new(schema).with_header(true).build(file).expect("a reader");
    let expected: Vec<RecordBatch> = expected.map(|batch| batch.expect("a batch")).collect();
    let expected = concat_batches(&expected[0].schema(), &expected).expect("one schema");
    for batches in all {
        assert_eq!(concat_batches(&batches[0].schema(), &batches).expect("one schema"), expected);
    }
}

#[test]
fn a_result_without_rows_has_its_columns_in_every_format() {
    let shell = Shell::new();
    shell.with_file("odd.csv", ODD);
    let query = "select n, x from 'odd.csv' where n > 100";
    assert_eq!(shell.ok(&["sql", "--format", "csv", query]), "n,x\n");
    assert_eq!(shell.ok(&["sql", "--format", "json", query]), "");
    assert!(shell.ok(&["sql", query]).ends_with("(0 rows)\n"));
    for name in ["none.parquet", "none.arrow"] {
        shell.ok(&["sql", "-q", "-o", name, query]);
    }
    let parquet = ParquetRecordBatchReaderBuilder::try_new(File::open(shell.path("none.parquet")).expect("a file"));
    assert_eq!(parquet.expect("Parquet").schema().fields().len(), 2);
    let arrow = FileReader::try_new(File::open(shell.path("none.arrow")).expect("a file"), None);
    assert_eq!(arrow.expect("an Arrow file").schema().fields().len(), 2);
}

#[test]
fn the_name_of_the_output_says_its_format() {
    let shell = Shell::new();
    shell.with_file("odd.csv", ODD);
    let ran = shell.run(&["sql", "--output", "copy.csv", "select * from 'odd.csv'"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, ""));
    assert!(ran.errors.starts_with("3 rows written to copy.csv in "), "{}", ran.errors);
    assert_eq!(std::fs::read_to_string(shell.path("copy.csv")).expect("a file"), ODD);
    shell.ok(&["sql", "-q", "-o", "copy.jsonl", "select n from 'odd.csv' where n = 1"]);
    assert_eq!(std::fs::read_to_string(shell.path("copy.jsonl")).expect("a file"), "{\"n\":1}\n");
    let ran = shell.run(&["sql", "--output", "copy.bin", "select 1"]);
    assert_eq!(ran.status, 2);
    assert!(ran.errors.contains("copy.bin") && ran.errors.contains("--format"), "{}", ran.errors);
}
