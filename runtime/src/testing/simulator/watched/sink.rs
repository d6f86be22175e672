//! A sink that is watched, and sometimes waits. A method that the sink's traits get is to be handed on here.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::{Record, Records, Site};
use crate::batch::copied;
use crate::error::Result;
use crate::io::Io;
use crate::sink::{CloseStep, Receipt, Sink, SinkContext, SinkSpec, SinkStep};

#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn SinkSpec>,
    site: Site,
    index: usize,
    records: Records,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn SinkSpec>, site: Site, index: usize, records: &Records) -> Self {
        Self { inner, site, index, records: Arc::clone(records) }
    }
}

fn record(records: &Records, index: usize, change: impl FnOnce(&mut Record)) {
    change(records.lock().entry(index).or_default());
}

impl SinkSpec for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        let site = self.site.at(context.partition);
        site.enter("open")?;
        let (io, records) = (context.io.clone(), Arc::clone(&self.records));
        let inner = self.inner.open(context)?;
        Ok(Box::new(Instance { inner, site, io, index: self.index, records, held: None, failed: false }))
    }

    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        self.site.at(0).enter("commit")?;
        record(&self.records, self.index, |record| record.commits += 1);
        self.inner.commit(receipts)
    }

    fn abort(&self) {
        record(&self.records, self.index, |record| record.aborts += 1);
        self.inner.abort();
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.inner.min_memory(batch_bytes)
    }

    fn detail(&self) -> String {
        self.inner.detail()
    }
}

struct Instance {
    inner: Box<dyn Sink>,
    site: Site,
    io: Io,
    index: usize,
    records: Records,
    /// A batch that came when it stalled.
    held: Option<RecordBatch>,
    failed: bool,
}

impl Instance {
    fn enter(&mut self, what: &str) -> Result<()> {
        if std::mem::replace(&mut self.failed, true) {
            self.site.world.break_rule(format!("sink `{}` was called after it had failed", self.site.node));
        }
        self.site.enter(what)
    }

    fn write_now(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        // A clone would keep the batch in its account.
        let copy = copied(&batch);
        record(&self.records, self.index, |record| record.batches.push(copy));
        self.inner.write(batch)
    }
}

impl Sink for Instance {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        self.enter("write")?;
        let step = match self.site.stall(&self.io) {
            Some(ticket) => {
                self.held = Some(batch);
                SinkStep::Blocked(ticket)
            }
            None => self.write_now(batch)?,
        };
        self.failed = false;
        Ok(step)
    }

    fn resume(&mut self) -> Result<SinkStep> {
        self.enter("resume")?;
        let step = match self.held.take() {
            Some(batch) => self.write_now(batch)?,
            None => self.inner.resume()?,
        };
        self.failed = false;
        Ok(step)
    }

    fn close(&mut self) -> Result<CloseStep> {
        self.enter("close")?;
        let step = self.inner.close()?;
        self.failed = false;
        Ok(step)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.site.leave();
    }
}
