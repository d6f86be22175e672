//! An operator that passes nothing on before a join has told what it holds: for rows on their way to something that takes
//! in all of them before it yields any, and would take in those in vain that the filter is about to drop.

use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::RuntimeFilter;

/// Keeps its first batch until all of some filters are known, or will never be. It changes no row, and has no filter
/// itself: that is where the rows come from.
///
/// The held side of the join must not wait for these rows in its turn.
#[derive(Debug, Clone)]
pub struct AwaitFilters {
    filters: Vec<RuntimeFilter>,
}

impl AwaitFilters {
    /// Waits for all of `filters`.
    pub fn new(filters: Vec<RuntimeFilter>) -> Self {
        Self { filters }
    }
}

impl OperatorSpec for AwaitFilters {
    fn name(&self) -> &str {
        "await filter"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(AwaitInstance { filters: self.filters.clone(), first: None }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        "until the join holds its rows".into()
    }
}

struct AwaitInstance {
    /// Those that were not known yet.
    filters: Vec<RuntimeFilter>,
    first: Option<RecordBatch>,
}

impl AwaitInstance {
    fn pass(&mut self, out: &mut Outbox) -> Step {
        while let Some(filter) = self.filters.last() {
            if let Some(ticket) = filter.slot().pending() {
                return Step::Blocked(ticket);
            }
            self.filters.pop();
        }
        self.first.take().into_iter().for_each(|batch| out.push(batch));
        Step::NeedInput
    }
}

impl Operator for AwaitInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.first = Some(batch);
        Ok(self.pass(out))
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        Ok(self.pass(out))
    }

    fn step_bytes(&self, _port: Port, _batch: &RecordBatch) -> usize {
        0
    }
}
