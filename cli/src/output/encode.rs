//! The formats that programs read. Each is a thin coat over the writer of the `arrow` and `parquet` crates.

use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, RecordBatch};
use aqueduct::arrow::compute::cast;
use aqueduct::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use aqueduct::arrow::error::ArrowError;
use aqueduct::arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow_json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder as JsonWriterBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::output::place::Writer;
use crate::output::{Encode, EncodeError};

/// Bytes of a Parquet row group in the making, where no memory limit asks for less.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Comma-separated values.
pub(crate) struct Csv(arrow_csv::Writer<Writer>);

impl Csv {
    pub(crate) fn try_new(out: Writer, schema: &SchemaRef) -> Result<Self, EncodeError> {
        let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(out);
        // A result without rows has a header, too.
        writer.write(&RecordBatch::new_empty(SchemaRef::clone(schema)))?;
        Ok(Self(writer))
    }
}

impl Encode for Csv {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        Ok(self.0.write(batch)?)
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }
}

/// One JSON object a line, with the keys of nulls.
pub(crate) struct Json(JsonWriter<Writer, LineDelimited>);

impl Json {
    pub(crate) fn new(out: Writer) -> Self {
        Self(JsonWriterBuilder::new().with_explicit_nulls(true).build(out))
    }
}

impl Encode for Json {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        Ok(self.0.write(batch)?)
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        Ok(self.0.finish()?)
    }
}

/// Parquet, with row groups that are flushed by their bytes.
pub(crate) struct Parquet {
    writer: ArrowWriter<Writer>,
    row_group_bytes: usize,
}

impl Parquet {
    pub(crate) fn try_new(out: Writer, schema: &SchemaRef, memory_bytes: Option<usize>) -> Result<Self, EncodeError> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(out, SchemaRef::clone(schema), Some(properties))?;
        let row_group_bytes = memory_bytes.map_or(ROW_GROUP_BYTES, |limit| (limit / 4).clamp(1 << 20, ROW_GROUP_BYTES));
        Ok(Self { writer, row_group_bytes })
    }
}

impl Encode for Parquet {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        self.writer.write(batch)?;
        if self.writer.memory_size() >= self.row_group_bytes {
            self.writer.flush()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        self.writer.finish()?;
        Ok(())
    }
}

/// Arrow's file format.
pub(crate) struct ArrowFile {
    writer: FileWriter<Writer>,
    schema: SchemaRef,
}

impl ArrowFile {
    pub(crate) fn try_new(out: Writer, schema: &SchemaRef) -> Result<Self, EncodeError> {
        let schema = without_dictionaries(schema);
        Ok(Self { writer: FileWriter::try_new(out, &schema)?, schema })
    }
}

impl Encode for ArrowFile {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        Ok(self.writer.write(&with_types(batch, &self.schema)?)?)
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        Ok(self.writer.finish()?)
    }
}

/// Arrow's stream format.
pub(crate) struct ArrowStream(StreamWriter<Writer>);

impl ArrowStream {
    pub(crate) fn try_new(out: Writer, schema: &SchemaRef) -> Result<Self, EncodeError> {
        Ok(Self(StreamWriter::try_new(out, schema)?))
    }
}

impl Encode for ArrowStream {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        Ok(self.0.write(batch)?)
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        Ok(self.0.finish()?)
    }
}

/// A file has one dictionary a column, and batches of different row groups have different ones: values are written out.
fn without_dictionaries(schema: &SchemaRef) -> SchemaRef {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Dictionary(_, values) => Arc::new(field.as_ref().clone().with_data_type(values.as_ref().clone())),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

fn with_types(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        let same = column.data_type() == field.data_type();
        if same { Ok(ArrayRef::clone(column)) } else { cast(column, field.data_type()) }
    });
    RecordBatch::try_new(SchemaRef::clone(schema), columns.collect::<Result<_, _>>()?)
}
