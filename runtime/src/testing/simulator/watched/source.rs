//! A source that is watched, and sometimes waits. A method that the source's traits get is to be handed on here.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::Site;
use crate::error::Result;
use crate::io::{Io, Ticket};
use crate::operator::Outbox;
use crate::source::{Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split};

#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn SourceSpec>,
    site: Site,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn SourceSpec>, site: Site) -> Self {
        Self { inner, site }
    }
}

impl SourceSpec for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>> {
        self.site.enter("scan")?;
        Ok(Arc::new(WatchedScan { inner: self.inner.scan(context)?, site: self.site.clone() }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.inner.min_memory(batch_bytes)
    }

    fn max_partitions(&self) -> Option<usize> {
        self.inner.max_partitions()
    }

    fn detail(&self) -> String {
        self.inner.detail()
    }
}

struct WatchedScan {
    inner: Arc<dyn Scan>,
    site: Site,
}

impl Scan for WatchedScan {
    fn next_split(&self) -> Result<Option<Split>> {
        self.site.enter("next_split")?;
        self.inner.next_split()
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let site = self.site.at(context.partition);
        site.enter("open")?;
        let io = context.io.clone();
        Ok(Box::new(Instance { inner: self.inner.open(context)?, site, io, stalled: None, failed: false }))
    }

    fn total_bytes(&self) -> Option<u64> {
        self.inner.total_bytes()
    }
}

struct Instance {
    inner: Box<dyn Source>,
    site: Site,
    io: Io,
    /// What it waits for of its own.
    stalled: Option<Ticket>,
    failed: bool,
}

impl Instance {
    fn enter(&mut self, what: &str) -> Result<()> {
        if std::mem::replace(&mut self.failed, true) {
            self.site.world.break_rule(format!("source `{}` was called after it had failed", self.site.node));
        }
        self.site.enter(what)
    }
}

impl Source for Instance {
    fn start(&mut self, split: &Split) -> Result<()> {
        self.enter("start")?;
        self.inner.start(split)?;
        self.failed = false;
        Ok(())
    }

    fn step_bytes(&self, budget_bytes: usize) -> usize {
        self.inner.step_bytes(budget_bytes)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        self.enter("read")?;
        if self.stalled.take().is_none()
            && let Some(ticket) = self.site.stall(&self.io)
        {
            self.stalled = Some(ticket.clone());
            self.failed = false;
            return Ok(SourceStep::Blocked(ticket));
        }
        let step = self.inner.read(budget_bytes, out)?;
        self.failed = false;
        Ok(step)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.site.leave();
    }
}
