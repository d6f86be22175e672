//! The build rows that are emitted for themselves, once no probe row can match them any more.

use aqueduct_runtime::{Outbox, Result};
use arrow::array::{Array, BooleanArray};
use arrow::buffer::NullBuffer;

use super::cursor::Limits;
use super::gather::{Pairs, RowBytes, columns};
use super::shape::{Rows, Shape};
use super::table::{Tables, id};

/// Emits those of the rows of `bucket` from `at` on that fit in a batch; `true` after the last.
///
/// `not_in` says that the probe side had rows, so that null keys are in no answer.
pub(super) fn give_build_rows(
    shape: &Shape,
    tables: &Tables,
    bucket: usize,
    at: &mut usize,
    limits: Limits,
    not_in: bool,
    out: &mut Outbox,
) -> Result<bool> {
    let Some(table) = tables.table(bucket) else { return Ok(true) };
    let chunk_mask = (1usize << table.shift) - 1;
    let (mut ids, mut bytes) = (Vec::new(), 0);
    let mut chunk: Option<(usize, RowBytes<'_>, Option<NullBuffer>)> = None;
    while *at < table.rows && ids.len() < limits.rows {
        let (number, row) = (*at >> table.shift, *at & chunk_mask);
        if chunk.as_ref().is_none_or(|(known, ..)| *known != number) {
            let batch = &table.chunks[number];
            let key = (shape.null_aware && not_in).then(|| batch.column(shape.build_keys[0]).logical_nulls());
            chunk = Some((number, RowBytes::new(batch, &shape.build_read), key.flatten()));
        }
        let Some((_, row_bytes, nulls)) = &chunk else { break };
        let wanted = match shape.build_rows {
            Rows::None => false,
            Rows::Mark => true,
            Rows::Matched => table.matched.get(*at),
            Rows::Unmatched => !table.matched.get(*at) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)),
        };
        if wanted {
            bytes += row_bytes.of(row);
            if bytes > limits.bytes && !ids.is_empty() {
                break;
            }
            ids.push(id(bucket, *at as u32));
        }
        *at += 1;
    }
    if !ids.is_empty() {
        let mark: Option<BooleanArray> = (shape.build_rows == Rows::Mark)
            .then(|| ids.iter().map(|id| Some(table.matched.get(*id as u32 as usize))).collect());
        let mut build = Pairs::new(tables, &ids);
        let (schema, origins) = (&shape.output_schema, &shape.output);
        out.push(columns(schema, origins, Some(&mut build), None, mark.as_ref(), ids.len())?);
    }
    Ok(*at >= table.rows)
}
