//! Operators that read port 0 to its end before they read port 1: what makes a diamond a hazard.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{OperatorError, Result};
use crate::operator::{Operator, OperatorContext, OperatorSpec, Outbox, Port, PortSet, Step};
use crate::testing::failing::only_input;
use crate::testing::fork::first_numbers;

/// Counts and sums port 0 to its end, then port 1, and emits one row of what it saw.
///
/// The columns are `build_rows`, `build_sum`, `probe_rows` and `probe_sum`; sums are over the first column and
/// wrap. A batch that comes at port 1 too early is an error.
#[derive(Debug, Clone, Copy)]
pub struct BuildThenProbe;

impl OperatorSpec for BuildThenProbe {
    fn name(&self) -> &str {
        "build_then_probe"
    }

    fn inputs(&self) -> usize {
        2
    }

    fn output_schema(&self, _output: usize, _inputs: &[SchemaRef]) -> Result<SchemaRef> {
        let fields = ["build_rows", "build_sum", "probe_rows", "probe_sum"];
        Ok(Arc::new(Schema::new(fields.map(|name| Field::new(name, DataType::Int64, false)).to_vec())))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Digest { schema: self.output_schema(0, &[])?, turn: Turn::default(), seen: [(0, 0); 2] }))
    }
}

struct Digest {
    schema: SchemaRef,
    turn: Turn,
    /// Rows and sum of each port.
    seen: [(i64, i64); 2],
}

impl Operator for Digest {
    fn process(&mut self, port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.turn.check(port)?;
        let (rows, total) = &mut self.seen[port];
        *rows += batch.num_rows() as i64;
        *total = total.wrapping_add(sum(first_numbers(&batch)?).unwrap_or(0));
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        self.turn.end(port)?;
        if port == 1 {
            let [(build_rows, build_sum), (probe_rows, probe_sum)] = self.seen;
            let columns = [build_rows, build_sum, probe_rows, probe_sum]
                .map(|value| Arc::new(Int64Array::from_value(value, 1)) as ArrayRef)
                .to_vec();
            out.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        }
        Ok(Step::NeedInput)
    }

    fn ready(&self) -> PortSet {
        self.turn.ready()
    }
}

/// Forwards all rows of port 0, then all rows of port 1. A batch that comes at port 1 too early is an error.
#[derive(Debug, Clone, Copy)]
pub struct Concatenate;

impl OperatorSpec for Concatenate {
    fn name(&self) -> &str {
        "concatenate"
    }

    fn inputs(&self) -> usize {
        2
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        match inputs {
            [first, second] if first.fields() != second.fields() => {
                Err(OperatorError::new("both inputs must have the same columns"))
            }
            _ => only_input(inputs),
        }
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Forward { turn: Turn::default() }))
    }
}

struct Forward {
    turn: Turn,
}

impl Operator for Forward {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.turn.check(port)?;
        out.push(batch);
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, port: Port, _out: &mut Outbox) -> Result<Step> {
        self.turn.end(port)?;
        Ok(Step::NeedInput)
    }

    fn ready(&self) -> PortSet {
        self.turn.ready()
    }
}

/// The port whose turn it is.
#[derive(Debug, Default)]
struct Turn(Port);

impl Turn {
    fn check(&self, port: Port) -> Result<()> {
        if port == self.0 {
            Ok(())
        } else {
            Err(OperatorError::new(format!("port {port} was read while port {} was the only one ready", self.0)))
        }
    }

    fn end(&mut self, port: Port) -> Result<()> {
        self.check(port)?;
        self.0 += 1;
        Ok(())
    }

    fn ready(&self) -> PortSet {
        if self.0 < 2 { PortSet::only(self.0) } else { PortSet::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, drive, number_schema, numbers};

    fn instance(spec: &dyn OperatorSpec) -> Box<dyn Operator> {
        spec.instantiate(context().operator(&[number_schema(), number_schema()])).expect("instantiates")
    }

    #[test]
    fn port_0_is_read_to_its_end_before_port_1() {
        let inputs = [vec![numbers(0..3), numbers(3..5)], vec![numbers(10..12)]];
        let output = drive(instance(&Concatenate).as_mut(), inputs.clone()).expect("runs");
        assert_eq!(output, [numbers(0..3), numbers(3..5), numbers(10..12)]);

        let output = drive(instance(&BuildThenProbe).as_mut(), inputs).expect("runs");
        let values: Vec<_> = output[0]
            .columns()
            .iter()
            .map(|column| column.as_any().downcast_ref::<Int64Array>().expect("integers").value(0))
            .collect();
        assert_eq!(values, [5, 10, 2, 21]);
    }

    #[test]
    fn reading_port_1_too_early_is_an_error() {
        for spec in [&Concatenate as &dyn OperatorSpec, &BuildThenProbe] {
            let mut operator = instance(spec);
            assert!(!operator.ready().contains(1));
            assert!(operator.process(1, numbers(0..1), &mut Outbox::new()).is_err());
        }
    }
}
