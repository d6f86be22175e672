//! A web page that shows what a cluster does, its figures for machines, and a button to cancel a job.
//!
//! ```text
//! one thread   accept ─▶ connection ─▶ guard (host, method, size, token) ─▶ route ─▶ view of an Observer
//!              live: one snapshot a while, made only while somebody looks, for all who look
//! ```
//!
//! It reads, through an [`Observer`], and never steers the data. It listens on loopback; any other address needs a
//! token (C12). All it serves is in the binary, and its pages load nothing from elsewhere.

mod config;
mod guard;
mod live;
mod prometheus;
mod report;
mod routes;
mod sample;
mod secret;
mod server;
mod trace;
mod view;

use std::net::SocketAddr;
use std::thread::JoinHandle;

use aqueduct_runtime::Observer;
use tokio::sync::oneshot;

pub use config::{DashboardConfig, DashboardError, PORT};
pub use prometheus::text as prometheus_text;
pub use report::report;

/// A dashboard that is being served. Dropping it stops it; the cluster goes on.
#[derive(Debug)]
pub struct Dashboard {
    link: String,
    address: SocketAddr,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Serves what `observer` sees, on a thread of its own.
    ///
    /// # Errors
    ///
    /// If the address or the port cannot be had, or the token is too short.
    pub fn start(observer: Observer, config: DashboardConfig) -> Result<Self, DashboardError> {
        let (listener, settings) = config.bind()?;
        let address = listener.local_addr().map_err(DashboardError::Thread)?;
        let link = settings.link(address);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("aq-dashboard".into())
            .spawn(move || server::run(listener, observer, settings, stopped))
            .map_err(DashboardError::Thread)?;
        tracing::debug!(%address, "dashboard");
        Ok(Self { link, address, stop: Some(stop), thread: Some(thread) })
    }

    /// What to open in a browser. Where a token is needed, it is part of the link.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving: whoever is connected is cut off. Returns once the thread has ended.
    pub fn close(self) {}
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What a panic there said is on standard error; the cluster does not need the page.
            let _ = thread.join();
        }
    }
}
