//! The thread: accepts connections, runs each as a task of its own, and cuts all off when told to stop.
//!
//! One thread and no more: it never has many clients, and all that it holds is shared without locks. What a slow or
//! silent client can take is bounded: connections, time for a request's head, time without an acknowledgement, and
//! the life of a connection.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::App;
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::rt::{System, spawn};
use actix_web::web::Data;
use aqueduct_runtime::Observer;
use tokio::sync::oneshot;

use crate::config::Settings;
use crate::guard::guard;
use crate::live::Live;
use crate::routes;

/// Connections at a time; more wait in the system's line.
const CONNECTIONS: usize = 64;
/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For the next request on a connection that is kept.
const KEPT_TIME: Duration = Duration::from_secs(20);
/// For a client to take in what was sent.
const SENT_TIME: Duration = Duration::from_secs(20);
/// The life of a connection: pages connect anew by themselves.
const CONNECTION_TIME: Duration = Duration::from_secs(15 * 60);

/// What a request is answered from.
pub(crate) struct Context {
    pub(crate) observer: Observer,
    pub(crate) settings: Settings,
    pub(crate) live: Live,
}

/// Serves until `stopped` is done.
pub(crate) fn run(listener: TcpListener, observer: Observer, settings: Settings, stopped: oneshot::Receiver<()>) {
    System::new().block_on(async move {
        let interval = settings.interval;
        let live = Live::new(observer.clone(), interval);
        let context = Data::new(Context { observer, settings, live: live.clone() });
        let live = spawn(live.run());
        let stop = async {
            // Dropped or told: it is over.
            let _ = stopped.await;
        };
        tokio::select! {
            () = stop => {}
            result = accept(listener, context) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the dashboard has stopped");
                }
            }
        }
        live.abort();
        // Connections end with the system that runs them.
    });
}

async fn accept(listener: TcpListener, context: Data<Context>) -> std::io::Result<()> {
    let listener = actix_web::rt::net::TcpListener::from_std(listener)?;
    let app = App::new().app_data(context).configure(routes::configure).wrap(from_fn(guard));
    let service = HttpService::build()
        .client_request_timeout(HEAD_TIME)
        .client_disconnect_timeout(Duration::from_secs(1))
        .keep_alive(KEPT_TIME)
        .h1(map_config(app, |()| AppConfig::default()))
        .tcp();
    let service = service.new_service(()).await.map_err(|()| std::io::Error::other("the routes cannot be made"))?;
    let service = Rc::new(service);
    let open = Rc::new(Open::default());
    loop {
        open.room().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // A client that went away, or no file left to open: the next one may have more luck.
            Err(error) => {
                tracing::debug!(%error, "no connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        bound(&stream);
        let (service, place) = (Rc::clone(&service), open.enter());
        spawn(async move {
            // A connection that fails is the client's trouble.
            let _ = tokio::time::timeout(CONNECTION_TIME, service.call(stream)).await;
            drop(place);
        });
    }
}

/// Ends a connection whose client takes nothing in.
fn bound(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(SENT_TIME));
}

/// How many connections there are.
#[derive(Default)]
struct Open {
    count: Cell<usize>,
    left: tokio::sync::Notify,
}

struct Place(Rc<Open>);

impl Open {
    async fn room(&self) {
        while self.count.get() >= CONNECTIONS {
            self.left.notified().await;
        }
    }

    fn enter(self: &Rc<Self>) -> Place {
        self.count.set(self.count.get() + 1);
        Place(Rc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.left.notify_one();
    }
}
