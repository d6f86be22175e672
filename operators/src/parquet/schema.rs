//! From a file's schema to the table's: which Arrow type each column is read as, and which column is which.
//!
//! Strings and bytes are read as views, so that values are not copied out of their pages.

use std::path::Path;
use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels, parquet_to_arrow_schema};
use parquet::file::metadata::ParquetMetaData;

use super::error::{ParquetFileError, guarded};
use super::rows::fields_of;

/// The columns of a file as it would be read alone.
pub(crate) fn file_schema(path: &Path, metadata: &ParquetMetaData) -> Result<Schema> {
    let failed = |reason| ParquetFileError::Footer { file: path.to_path_buf(), reason };
    let footer = metadata.file_metadata();
    let own =
        guarded(|| parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())).map_err(failed)?;
    let views: Fields = own.fields().iter().map(viewed).collect();
    let fields = readable(metadata, &views).map_err(failed)?;
    Ok(Schema::new_with_metadata(fields, own.metadata().clone()))
}

/// The fields that all columns of a file are read as when `hint` is asked for.
fn readable(metadata: &ParquetMetaData, hint: &Fields) -> std::result::Result<Fields, String> {
    let schema = metadata.file_metadata().schema_descr();
    guarded(|| {
        let levels = parquet_to_arrow_field_levels(schema, ProjectionMask::all(), Some(hint))?;
        fields_of(&levels, metadata)
    })
}

/// `field` with views for strings and bytes, however deep.
fn viewed(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(viewed).collect()),
        DataType::List(item) => DataType::List(viewed(item)),
        DataType::LargeList(item) => DataType::LargeList(viewed(item)),
        DataType::ListView(item) => DataType::ListView(viewed(item)),
        DataType::LargeListView(item) => DataType::LargeListView(viewed(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(viewed(item), *length),
        DataType::Map(entries, sorted) => DataType::Map(viewed(entries), *sorted),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// How the columns of one file are the columns of the table.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    /// The file's column of each of the table's.
    pub(crate) roots: Vec<usize>,
    /// What the file's columns are read as, in the order of the file.
    pub(crate) hint: Fields,
}

/// A file's path, footer and schema.
pub(crate) type Described<'a> = (&'a Path, &'a ParquetMetaData, &'a Schema);

/// The table that files make up together, and how each fits in it.
pub(crate) fn unify(files: &[Described<'_>]) -> Result<(SchemaRef, Vec<Mapping>)> {
    let Some(&(first, _, table)) = files.first() else {
        return Ok((Arc::new(Schema::empty()), vec![]));
    };
    let mut nullable: Vec<bool> = table.fields().iter().map(|field| field.is_nullable()).collect();
    let mut mappings = Vec::with_capacity(files.len());
    for &(path, metadata, schema) in files {
        if path == first && mappings.is_empty() {
            mappings.push(Mapping { roots: (0..table.fields().len()).collect(), hint: table.fields().clone() });
            continue;
        }
        let missing = |column: &str, present: &Path, missing: &Path| ParquetFileError::Columns {
            column: column.to_string(),
            present: present.to_path_buf(),
            missing: missing.to_path_buf(),
        };
        if let Some(extra) = schema.fields().iter().find(|field| table.column_with_name(field.name()).is_none()) {
            return Err(missing(extra.name(), path, first).into());
        }
        let mut hint: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        let mut roots = Vec::with_capacity(table.fields().len());
        for (field, nullable) in table.fields().iter().zip(&mut nullable) {
            let Some((root, own)) = schema.column_with_name(field.name()) else {
                return Err(missing(field.name(), first, path).into());
            };
            *nullable |= own.is_nullable();
            hint[root] = Arc::new(Field::clone(own).with_data_type(field.data_type().clone()));
            roots.push(root);
        }
        let hint = Fields::from(hint);
        // What cannot be read as the first file's type falls back to the file's own.
        let read = readable(metadata, &hint);
        for (field, &root) in table.fields().iter().zip(&roots) {
            let found = match &read {
                Ok(fields) => fields[root].data_type(),
                Err(_) => schema.field(root).data_type(),
            };
            if found != field.data_type() {
                return Err(ParquetFileError::ColumnType {
                    column: field.name().clone(),
                    first: first.to_path_buf(),
                    expected: field.data_type().clone(),
                    file: path.to_path_buf(),
                    found: found.clone(),
                }
                .into());
            }
        }
        if let Err(reason) = read {
            return Err(ParquetFileError::Footer { file: path.to_path_buf(), reason }.into());
        }
        mappings.push(Mapping { roots, hint });
    }
    let fields = table.fields().iter().zip(nullable);
    let fields: Fields =
        fields.map(|(field, nullable)| Arc::new(Field::clone(field).with_nullable(nullable))).collect();
    Ok((Arc::new(Schema::new_with_metadata(fields, table.metadata().clone())), mappings))
}
