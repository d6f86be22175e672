//! Where to listen, and who may look.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::secret::Secret;

/// The port unless another one is asked for.
pub const PORT: u16 = 8787;
/// Ports that are tried, from [`PORT`] on, before any that is free is taken.
const PORTS: u16 = 20;
/// Characters that a token has at the least.
const TOKEN_CHARACTERS: usize = 16;
/// How often pages are updated.
const INTERVAL: Duration = Duration::from_millis(500);

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// Nothing can listen there.
    #[error("the dashboard cannot listen on {address}: {source}; choose another port, or switch it off")]
    Address {
        /// The address that was asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The token is one that could be guessed.
    #[error("a token has {TOKEN_CHARACTERS} characters or more, of letters, digits, `-`, `_`, `.` and `~`")]
    Token,
    /// The thread or its secrets cannot be had.
    #[error("the dashboard cannot be started: {0}")]
    Thread(io::Error),
}

/// How a dashboard is to be served.
#[derive(Debug, Clone)]
pub struct DashboardConfig {
    address: IpAddr,
    port: Option<u16>,
    token: Option<String>,
    interval: Duration,
}

impl Default for DashboardConfig {
    /// On loopback, at port 8787 or the next that is free, without a token.
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None, token: None, interval: INTERVAL }
    }
}

impl DashboardConfig {
    /// Listens on `address`. Where that is not a loopback one, a token is needed: one is made up unless given.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        Self { address, ..self }
    }

    /// Listens on this port or not at all; 0 for any that is free.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Only those who know `token` may look, on loopback too.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// How often pages are updated: every half second unless set.
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_millis(10)), ..self }
    }

    pub(crate) fn bind(self) -> Result<(TcpListener, Settings), DashboardError> {
        let token = match self.token {
            Some(token) => Some(Secret::given(&token).ok_or(DashboardError::Token)?),
            None if self.address.is_loopback() => None,
            None => Some(Secret::random().map_err(DashboardError::Thread)?),
        };
        let csrf = Secret::random().map_err(DashboardError::Thread)?;
        let listen = |port| {
            let address = SocketAddr::new(self.address, port);
            TcpListener::bind(address).map_err(|source| DashboardError::Address { address, source })
        };
        let listener = match self.port {
            Some(port) => listen(port)?,
            None => {
                (PORT..PORT + PORTS).chain([0]).map(listen).find_map(Result::ok).map_or_else(|| listen(PORT), Ok)?
            }
        };
        listener.set_nonblocking(true).map_err(DashboardError::Thread)?;
        Ok((listener, Settings { token, csrf, interval: self.interval, loopback: self.address.is_loopback() }))
    }
}

/// What the server needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) token: Option<Secret>,
    /// What a page of ours knows and no other page can.
    pub(crate) csrf: Secret,
    pub(crate) interval: Duration,
    pub(crate) loopback: bool,
}

impl Settings {
    pub(crate) fn link(&self, address: SocketAddr) -> String {
        // Nobody can open `0.0.0.0`.
        let shown = if address.ip().is_unspecified() {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
        } else {
            address
        };
        match &self.token {
            Some(token) => format!("http://{shown}/?token={}", token.text()),
            None => format!("http://{shown}/"),
        }
    }
}

/// Whether a token may be part of a link, and is long enough.
pub(crate) fn is_token(text: &str) -> bool {
    text.len() >= TOKEN_CHARACTERS
        && text.len() <= 256
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
}
