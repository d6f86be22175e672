//! Live pages: one look a while, made only while somebody watches, written once for all who do.
//!
//! Frames travel as server-sent events. A channel keeps the newest frame alone, so whoever is slow misses frames and
//! holds up nobody.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use aqueduct_runtime::Observer;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

use crate::sample::Sampler;

/// Pages that are kept up to date at a time.
const WATCHERS: usize = 32;
/// After that a page connects anew, which it does by itself.
const WATCH_TIME: Duration = Duration::from_secs(10 * 60);

/// The looks and who waits for them. Clones are the same.
#[derive(Clone)]
pub(crate) struct Live(Rc<Inner>);

struct Inner {
    interval: Duration,
    sampler: RefCell<Sampler>,
    overview: Rc<Channel>,
    jobs: RefCell<BTreeMap<u64, Rc<Channel>>>,
    /// Somebody has begun to watch.
    wanted: Notify,
    /// Looks made so far.
    looks: Cell<u64>,
}

/// The newest frame of one kind.
#[derive(Default)]
struct Channel {
    version: Cell<u64>,
    frame: RefCell<Bytes>,
    waiting: RefCell<Vec<Waker>>,
    watchers: Cell<usize>,
}

impl Channel {
    fn publish(&self, frame: Bytes) {
        self.version.set(self.version.get() + 1);
        *self.frame.borrow_mut() = frame;
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// An event as a browser takes it.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    // JSON has no line ends of its own.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".into());
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

impl Live {
    pub(crate) fn new(observer: Observer, interval: Duration) -> Self {
        Self(Rc::new(Inner {
            interval,
            sampler: RefCell::new(Sampler::new(observer)),
            overview: Rc::default(),
            jobs: RefCell::default(),
            wanted: Notify::new(),
            looks: Cell::new(0),
        }))
    }

    /// Looks for as long as somebody watches.
    pub(crate) async fn run(self) {
        let live = &*self.0;
        loop {
            if live.overview.watchers.get() == 0 {
                live.wanted.notified().await;
                continue;
            }
            self.look();
            tokio::time::sleep(live.interval).await;
        }
    }

    fn look(&self) {
        let live = &*self.0;
        live.looks.set(live.looks.get() + 1);
        let mut jobs = live.jobs.borrow_mut();
        jobs.retain(|_, channel| channel.watchers.get() > 0);
        let wanted: Vec<u64> = jobs.keys().copied().collect();
        let (overview, frames) = live.sampler.borrow_mut().look(&wanted);
        live.overview.publish(event("overview", &overview));
        for (id, frame) in frames {
            if let Some(channel) = jobs.get(&id) {
                channel.publish(event("job", &frame));
            }
        }
    }

    /// Looks made so far: none while nobody watches.
    pub(crate) fn looks(&self) -> u64 {
        self.0.looks.get()
    }

    /// The memory of the last minutes in which somebody watched.
    pub(crate) fn history(&self) -> serde_json::Value {
        let sampler = self.0.sampler.borrow();
        serde_json::to_value(sampler.history().collect::<Vec<_>>()).unwrap_or_default()
    }

    /// Events of the cluster, and of a job if one is wanted; `None` if too many watch.
    pub(crate) fn watch(&self, job: Option<u64>) -> Option<Events> {
        let live = &*self.0;
        if live.overview.watchers.get() >= WATCHERS {
            return None;
        }
        let first = event("history", &self.history());
        let mut channels = vec![Watched::new(Rc::clone(&live.overview))];
        if let Some(id) = job {
            let channel = Rc::clone(live.jobs.borrow_mut().entry(id).or_default());
            channels.push(Watched::new(channel));
        }
        live.wanted.notify_one();
        Some(Events { first: Some(first), channels, begun: Instant::now() })
    }
}

/// One who watches a channel.
struct Watched {
    channel: Rc<Channel>,
    seen: u64,
}

impl Watched {
    fn new(channel: Rc<Channel>) -> Self {
        channel.watchers.set(channel.watchers.get() + 1);
        Self { channel, seen: 0 }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.channel.watchers.set(self.channel.watchers.get() - 1);
    }
}

/// The body of an answer that goes on: the newest frames as they come.
pub(crate) struct Events {
    first: Option<Bytes>,
    channels: Vec<Watched>,
    begun: Instant,
}

impl MessageBody for Events {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.begun.elapsed() > WATCH_TIME {
            return Poll::Ready(None);
        }
        for watched in &mut self.channels {
            let version = watched.channel.version.get();
            if version != watched.seen {
                watched.seen = version;
                return Poll::Ready(Some(Ok(watched.channel.frame.borrow().clone())));
            }
        }
        for watched in &self.channels {
            let mut waiting = watched.channel.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}
