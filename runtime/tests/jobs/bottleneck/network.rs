//! A source that reads from a socket whose other end is slow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use aqueduct_runtime::OperatorError;
use aqueduct_runtime::io::{Io, Pending};

use super::*;

/// Bytes that a batch comes in as.
const MESSAGE_BYTES: usize = 4096;

/// Sends messages to whoever connects, one each `interval`, until nobody listens.
pub(super) fn slow_server(interval: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let serve = move |mut stream: TcpStream| {
        let begun = Instant::now();
        for message in 1_u32.. {
            std::thread::park_timeout((begun + message * interval).saturating_duration_since(Instant::now()));
            if stream.write_all(&[7; MESSAGE_BYTES]).is_err() {
                return;
            }
        }
    };
    // It ends with the process of the test.
    crate::spawn(move || listener.incoming().flatten().for_each(|stream| drop(crate::spawn(move || serve(stream)))));
    address
}

/// An endless source, each batch of which is there once a message from `server` is.
#[derive(Debug)]
pub(super) struct NetworkSource {
    pub(super) inner: EndlessSource,
    pub(super) server: SocketAddr,
}

struct NetworkScan(Arc<dyn Scan>, SocketAddr);

struct NetworkReader {
    inner: Box<dyn Source>,
    io: Io,
    stream: Arc<TcpStream>,
    message: Option<Pending<std::io::Result<()>>>,
}

impl SourceSpec for NetworkSource {
    fn name(&self) -> &str {
        "network"
    }

    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(NetworkScan(self.inner.scan(context)?, self.server)))
    }
}

impl Scan for NetworkScan {
    fn next_split(&self) -> Result<Option<Split>> {
        self.0.next_split()
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let stream = Arc::new(TcpStream::connect(self.1).map_err(OperatorError::other)?);
        Ok(Box::new(NetworkReader { io: context.io.clone(), stream, message: None, inner: self.0.open(context)? }))
    }
}

impl Source for NetworkReader {
    fn start(&mut self, split: &Split) -> Result<()> {
        self.inner.start(split)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        let (io, stream) = (&self.io, &self.stream);
        let message = self.message.get_or_insert_with(|| {
            let stream = Arc::clone(stream);
            io.run("the network", move || (&*stream).read_exact(&mut [0; MESSAGE_BYTES]))
        });
        let Some(read) = message.take() else { return Ok(SourceStep::Blocked(message.ticket().clone())) };
        self.message = None;
        read.map_err(OperatorError::other)?;
        self.inner.read(budget_bytes, out)
    }
}
