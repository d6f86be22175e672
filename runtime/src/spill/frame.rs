//! One batch as bytes that can be read alone: a header of 64 bytes, then an Arrow IPC stream of that batch.
//!
//! ```text
//! | length | version, magic, sizes, rows, crc of payload | 0… | crc of header | payload: IPC stream, LZ4 or plain |
//! 0        1                                                  60              64
//! ```
//!
//! Every frame carries its schema and its dictionaries, so that no frame needs another one. A byte that
//! changed on disk is found by one of the checksums, before anything is decoded.

use std::io::{Read, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamEncoder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use serde::{Deserialize, Serialize};

use crate::batch::{array_bytes, copied};
use crate::codec;
use crate::error::Result;

/// Bytes before the payload, a multiple of Arrow's alignment.
pub(super) const HEADER_BYTES: usize = 64;
const HEADER_CRC_AT: usize = HEADER_BYTES - 4;
const MAGIC: [u8; 4] = *b"AQSP";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    magic: [u8; 4],
    /// Bytes on disk after the header.
    payload_bytes: u64,
    /// Bytes of the IPC stream; differs from `payload_bytes` only if the payload is compressed.
    stream_bytes: u64,
    compressed: bool,
    rows: u64,
    crc: u32,
}

/// Bytes that [`encode`] and [`decode`] may need beside the batch, for the frame itself.
pub(super) fn frame_bytes(memory_bytes: usize, schema: &SchemaRef) -> usize {
    // Schema and metadata messages take about 200 bytes a field; each buffer is padded to 64 bytes.
    HEADER_BYTES + memory_bytes + 1024 + 512 * schema.flattened_fields().len()
}

/// Encodes `batch`, whose types are those of `schema`.
pub(super) fn encode(batch: &RecordBatch, schema: &SchemaRef, compress: bool) -> Result<Vec<u8>> {
    let columns = batch.columns().iter().map(own_values).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?;
    let mut encoder = StreamEncoder::try_new(schema)?;
    // Uncompressed buffers are shared with the batch here, so the frame is the only copy.
    let mut pieces = encoder.encode(&batch)?;
    // Without the end marker the decoder does not get to see a body of no bytes.
    pieces.extend(encoder.finish()?);
    let stream_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut frame = Vec::with_capacity(HEADER_BYTES + if compress { stream_bytes / 2 } else { stream_bytes });
    frame.resize(HEADER_BYTES, 0);
    if compress {
        let mut writer = lz4_flex::frame::FrameEncoder::new(frame);
        for piece in &pieces {
            writer.write_all(piece).map_err(crate::OperatorError::other)?;
        }
        frame = writer.finish().map_err(crate::OperatorError::other)?;
        frame.shrink_to_fit();
    } else {
        pieces.iter().for_each(|piece| frame.extend_from_slice(piece));
    }
    seal(&mut frame, stream_bytes, compress, batch.num_rows())?;
    Ok(frame)
}

/// Writes the header of a frame over its first bytes.
fn seal(frame: &mut [u8], stream_bytes: usize, compressed: bool, rows: usize) -> Result<()> {
    let header = Header {
        magic: MAGIC,
        payload_bytes: (frame.len() - HEADER_BYTES) as u64,
        stream_bytes: stream_bytes as u64,
        compressed,
        rows: rows as u64,
        crc: crc32fast::hash(&frame[HEADER_BYTES..]),
    };
    let header = codec::encode(&header)?;
    frame[0] = header.len() as u8;
    frame[1..=header.len()].copy_from_slice(&header);
    let crc = crc32fast::hash(&frame[..HEADER_CRC_AT]).to_le_bytes();
    frame[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&crc);
    Ok(())
}

/// Decodes a frame of `rows` rows. Its columns own their buffers; the error says what does not match.
pub(super) fn decode(frame: Buffer, schema: &SchemaRef, rows: usize) -> Result<RecordBatch, String> {
    let header = read_header(&frame, rows)?;
    let payload = frame.slice(HEADER_BYTES);
    let mut stream = if header.compressed {
        decompress(&payload, usize::try_from(header.stream_bytes).map_err(|e| e.to_string())?)?
    } else {
        payload
    };
    drop(frame);
    let mut decoder = StreamDecoder::new();
    let batch = decoder.decode(&mut stream).map_err(|e| e.to_string())?.ok_or("the frame holds no batch")?;
    if batch.num_rows() != rows {
        return Err(format!("{} rows instead of {rows}", batch.num_rows()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let (_, columns, _) = copied(&batch).into_parts();
    drop(stream);
    let columns = columns.iter().map(own_buffers).collect::<Result<Vec<_>>>().map_err(|e| e.to_string())?;
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).map_err(|e| e.to_string())
}

fn read_header(frame: &[u8], rows: usize) -> Result<Header, String> {
    let bytes = frame.get(..HEADER_BYTES).ok_or("the frame is shorter than its header")?;
    if crc32fast::hash(&bytes[..HEADER_CRC_AT]).to_le_bytes() != bytes[HEADER_CRC_AT..] {
        return Err("the checksum of the header does not match".into());
    }
    let encoded = bytes.get(1..=usize::from(bytes[0])).ok_or("the header is longer than a header")?;
    let header: Header = codec::decode(encoded).map_err(|e| format!("the header cannot be decoded: {e}"))?;
    let payload = &frame[HEADER_BYTES..];
    if header.magic != MAGIC || header.rows != rows as u64 || header.payload_bytes != payload.len() as u64 {
        return Err("the header is not that of this batch".into());
    }
    if crc32fast::hash(payload) != header.crc {
        return Err("the checksum of the batch does not match".into());
    }
    Ok(header)
}

fn decompress(payload: &[u8], stream_bytes: usize) -> Result<Buffer, String> {
    let mut stream = MutableBuffer::from_len_zeroed(stream_bytes);
    let mut reader = lz4_flex::frame::FrameDecoder::new(payload);
    reader.read_exact(stream.as_slice_mut()).map_err(|e| e.to_string())?;
    Ok(stream.into())
}

/// `array` without the values that its rows do not use: IPC writes views' buffers and dictionaries whole.
fn own_values(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Utf8View if pins_more(array) => Ok(Arc::new(array.as_string_view().gc())),
        DataType::BinaryView if pins_more(array) => Ok(Arc::new(array.as_binary_view().gc())),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().len() <= 2 * array.len() {
                return Ok(Arc::clone(array));
            }
            // Keys are counted anew over the values that occur; a dictionary of a rare type is written whole.
            let used = arrow::compute::cast(array, dictionary.values().data_type());
            let packed = used.and_then(|used| arrow::compute::cast(&used, array.data_type()));
            Ok(packed.unwrap_or_else(|_| Arc::clone(array)))
        }
        nested if nested.is_nested() && has_views_or_dictionaries(nested) => {
            let data = array.to_data();
            let mut copy = arrow::array::MutableArrayData::new(vec![&data], false, array.len());
            copy.try_extend(0, 0, array.len())?;
            let data = copy.freeze();
            let children = data
                .child_data()
                .iter()
                .map(|child| Ok(own_values(&make_array(child.clone()))?.to_data()))
                .collect::<Result<Vec<_>>>()?;
            Ok(make_array(data.into_builder().child_data(children).build()?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// `array`, copied where copying the column has left it sharing the frame: dictionaries and nested views.
fn own_buffers(array: &ArrayRef) -> Result<ArrayRef> {
    if let Some(dictionary) = array.as_any_dictionary_opt() {
        let values = dictionary.values().to_data();
        let mut copy = arrow::array::MutableArrayData::new(vec![&values], false, values.len());
        copy.try_extend(0, 0, values.len())?;
        return Ok(dictionary.with_values(own_values(&make_array(copy.freeze()))?));
    }
    if !array.data_type().is_nested() {
        return Ok(Arc::clone(array));
    }
    // Children grow by doubling as they are copied.
    let mut own = own_values(array)?;
    own.shrink_to_fit();
    Ok(own)
}

fn pins_more(array: &ArrayRef) -> bool {
    array.get_buffer_memory_size() > array_bytes(array) + array_bytes(array) / 4 + 1024
}

fn has_views_or_dictionaries(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(_, _) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_views_or_dictionaries(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views_or_dictionaries(field.data_type())),
        // Other nested types are written as they are.
        _ => false,
    }
}
