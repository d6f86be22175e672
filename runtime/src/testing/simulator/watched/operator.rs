//! An operator that is watched. A method that [`OperatorSpec`] or [`Operator`] gets is to be handed on here.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::Site;
use crate::error::Result;
use crate::operator::{Operator, OperatorContext, OperatorSpec, Outbox, Port, PortSet, Step};

#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn OperatorSpec>,
    site: Site,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn OperatorSpec>, site: Site) -> Self {
        Self { inner, site }
    }
}

impl OperatorSpec for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn inputs(&self) -> usize {
        self.inner.inputs()
    }

    fn outputs(&self) -> usize {
        self.inner.outputs()
    }

    fn output_schema(&self, output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.inner.output_schema(output, inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let site = self.site.at(context.partition);
        site.enter("instantiate")?;
        let several = context.lanes.iter().sum::<usize>() > 1;
        let inner = self.inner.instantiate(context)?;
        Ok(Box::new(Instance { inner, site, turn: Turn::Input, finished: PortSet::NONE, several }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.inner.min_memory(batch_bytes)
    }

    fn lane_memory(&self, batch_bytes: usize) -> usize {
        self.inner.lane_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        self.inner.emits_after_input()
    }

    fn reads_all_ports(&self) -> bool {
        self.inner.reads_all_ports()
    }

    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
    }

    fn detail(&self) -> String {
        self.inner.detail()
    }
}

/// What may be called next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    Input,
    Resume,
    /// It has said that it is done, or has failed.
    Nothing,
}

struct Instance {
    inner: Box<dyn Operator>,
    site: Site,
    turn: Turn,
    finished: PortSet,
    /// It has more ports than one, and may leave some of them unread.
    several: bool,
}

impl Instance {
    /// Checks that it is the turn of a call, and makes it. Nothing may be called if it does not return.
    fn call(&mut self, what: &str, turn: Turn, call: impl FnOnce(&mut dyn Operator) -> Result<Step>) -> Result<Step> {
        if self.turn != turn {
            let broken =
                format!("{what} of `{}` was called where the next call was to be {:?}", self.site.node, self.turn);
            self.site.world.break_rule(broken);
        }
        self.turn = Turn::Nothing;
        self.site.enter(what)?;
        let step = call(self.inner.as_mut())?;
        self.turn = match &step {
            Step::NeedInput => Turn::Input,
            Step::MoreOutput | Step::Blocked(_) => Turn::Resume,
            Step::Done => {
                self.site.note_done();
                Turn::Nothing
            }
        };
        Ok(step)
    }

    fn check_port(&self, what: &str, port: Port) {
        if self.finished.contains(port) || self.several && !self.inner.ready().contains(port) {
            let broken = format!("{what} of `{}` was called for port {port}, which is not to be read", self.site.node);
            self.site.world.break_rule(broken);
        }
    }
}

impl Operator for Instance {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.check_port("process", port);
        self.call("process", Turn::Input, |inner| inner.process(port, batch, out))
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.call("resume", Turn::Resume, |inner| inner.resume(out))
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        self.check_port("finish", port);
        self.finished = self.finished.with(port);
        self.call("finish", Turn::Input, |inner| inner.finish(port, out))
    }

    fn ready(&self) -> PortSet {
        self.inner.ready()
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        let turn = std::mem::replace(&mut self.turn, Turn::Nothing);
        self.site.enter("spill")?;
        let freed = self.inner.spill(bytes)?;
        self.turn = turn;
        Ok(freed)
    }

    fn step_bytes(&self, port: Port, batch: &RecordBatch) -> usize {
        self.inner.step_bytes(port, batch)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.site.leave();
    }
}
