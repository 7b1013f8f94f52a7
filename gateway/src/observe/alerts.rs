//! Alerts by webhook: a thread and a bounded queue for each receiver, so that a slow one delays nobody else.

use super::payload;
use crate::anomaly::AlertChange;
use crate::config::observe::Webhook;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Alerts that may wait for one receiver.
const QUEUE_ALERTS: usize = 256;
/// Alerts told in one request.
const BATCH_ALERTS: usize = 64;
/// How long a stop waits for deliveries under way.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How often and how fast a delivery is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub attempts: u32,
    /// Doubled after each attempt.
    pub first_pause: Duration,
}

impl Default for Retry {
    /// Over about a minute.
    fn default() -> Self {
        Retry {
            attempts: 6,
            first_pause: Duration::from_secs(2),
        }
    }
}

#[derive(Default)]
struct Shared {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    stop: Mutex<bool>,
    stopped: Condvar,
}

/// Where alerts go in. Any thread may hold one; never blocks.
#[derive(Clone)]
pub struct AlertSink {
    queues: Arc<[SyncSender<Message>]>,
    shared: Arc<Shared>,
}

enum Message {
    Alert(AlertChange),
    Stop,
}

impl AlertSink {
    /// Tells every receiver.
    pub fn notify(&self, change: &AlertChange) {
        for queue in self.queues.iter() {
            if queue.try_send(Message::Alert(change.clone())).is_err() {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Alerts delivered, given up after all attempts, and dropped because a queue was full; one per receiver.
    pub fn counts(&self) -> (u64, u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            load(&self.shared.delivered),
            load(&self.shared.failed),
            load(&self.shared.dropped),
        )
    }
}

/// The running threads, held by the control side. A reload makes a new one and stops the old.
pub struct AlertSender {
    sink: AlertSink,
    done: Receiver<()>,
}

impl AlertSender {
    /// Starts a thread per receiver. Call after the process has become what it stays. `instance` names this gateway.
    pub fn start(webhooks: &[Webhook], instance: &str, retry: Retry) -> io::Result<AlertSender> {
        let shared = Arc::new(Shared::default());
        let (done_sender, done) = channel();
        let mut queues = Vec::with_capacity(webhooks.len());
        for webhook in webhooks {
            let (queue, alerts) = sync_channel(QUEUE_ALERTS);
            let receiver = Deliverer {
                agent: agent(webhook)?,
                webhook: webhook.clone(),
                instance: instance.to_owned(),
                retry,
                shared: shared.clone(),
            };
            let done = done_sender.clone();
            std::thread::Builder::new()
                .name("alerts".into())
                .spawn(move || receiver.run(&alerts, &done))?;
            queues.push(queue);
        }
        let sink = AlertSink {
            queues: queues.into(),
            shared,
        };
        Ok(AlertSender { sink, done })
    }

    pub fn sink(&self) -> AlertSink {
        self.sink.clone()
    }

    /// What is queued gets one more attempt; a receiver that hangs is left behind.
    pub fn stop(self) {
        *self
            .sink
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.sink.shared.stopped.notify_all();
        for queue in self.sink.queues.iter() {
            let _ = queue.try_send(Message::Stop);
        }
        let end = std::time::Instant::now() + STOP_PATIENCE;
        // Ends by disconnection when the last thread has ended.
        while self
            .done
            .recv_timeout(end.saturating_duration_since(std::time::Instant::now()))
            .is_ok()
        {}
    }
}

fn agent(webhook: &Webhook) -> io::Result<ureq::Agent> {
    let roots = match &webhook.roots {
        None => ureq::tls::RootCerts::WebPki,
        Some(pem) => {
            let certs: Vec<_> = ureq::tls::parse_pem(pem)
                .filter_map(|item| match item {
                    Ok(ureq::tls::PemItem::Certificate(cert)) => Some(cert),
                    _ => None,
                })
                .collect();
            if certs.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no certificate in the webhook's ca_file",
                ));
            }
            ureq::tls::RootCerts::new_with_certs(&certs)
        }
    };
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    // No proxy from the environment, no redirect: an alert goes where the config says or nowhere.
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_global(Some(webhook.timeout))
        .max_response_header_size(16 << 10)
        .max_idle_connections(1)
        .user_agent("gateway-alerts")
        .build();
    Ok(config.into())
}

/// One receiver's thread.
struct Deliverer {
    agent: ureq::Agent,
    webhook: Webhook,
    instance: String,
    retry: Retry,
    shared: Arc<Shared>,
}

impl Deliverer {
    fn run(self, alerts: &Receiver<Message>, done: &Sender<()>) {
        let mut batch = Vec::new();
        while let Ok(first) = alerts.recv() {
            let mut next = Some(first);
            while let Some(Message::Alert(change)) = next {
                batch.push(change);
                next = if batch.len() < BATCH_ALERTS {
                    alerts.try_recv().ok()
                } else {
                    None
                };
            }
            if !batch.is_empty() {
                self.deliver(&batch);
                batch.clear();
            }
            if matches!(next, Some(Message::Stop)) {
                break;
            }
        }
        let _ = done.send(());
    }

    fn deliver(&self, batch: &[AlertChange]) {
        let body = payload::body(self.webhook.format, &self.instance, batch);
        let mut pause = self.retry.first_pause;
        let mut attempt = 1;
        let error = loop {
            match self.post(&body) {
                Ok(()) => {
                    self.shared
                        .delivered
                        .fetch_add(batch.len() as u64, Ordering::Relaxed);
                    return;
                }
                Err((again, error)) => {
                    if !again || attempt >= self.retry.attempts || self.wait(pause) {
                        break error;
                    }
                }
            }
            attempt += 1;
            pause *= 2;
        };
        self.shared
            .failed
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        // The URL may be a secret; its origin is not.
        tracing::error!(webhook = %self.webhook.origin, attempts = attempt, %error, "alert.delivery_failed");
    }

    /// One attempt. `Err((true, _))`: it may be worth another.
    fn post(&self, body: &[u8]) -> Result<(), (bool, String)> {
        let request = self
            .agent
            .post(&self.webhook.url)
            .content_type("application/json");
        match request.send(body) {
            Ok(response) => match response.status().as_u16() {
                200..300 => Ok(()),
                status @ (408 | 429 | 500..600) => Err((true, format!("status {status}"))),
                status => Err((false, format!("status {status}"))),
            },
            Err(ureq::Error::BadUri(_)) => Err((false, "the URL is not valid".into())),
            Err(e) => Err((true, e.to_string())),
        }
    }

    /// Waits; true if told to stop.
    fn wait(&self, pause: Duration) -> bool {
        let stop = self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .stopped
            .wait_timeout_while(stop, pause, |stop| !*stop);
        match waited {
            Ok((stop, _)) => *stop,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::{Cause, Signal, Status};
    use crate::clock::Now;
    use crate::config::observe::PayloadFormat;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    const QUICK: Retry = Retry {
        attempts: 3,
        first_pause: Duration::from_millis(1),
    };

    fn change(route: &str) -> AlertChange {
        AlertChange {
            status: Status::Firing,
            route: Some(route.into()),
            signal: Signal::RequestRate,
            cause: Cause::Baseline,
            value: 9.0,
            limit: 3.0,
            since: Now::at(0, 1),
            at: Now::at(0, 2),
        }
    }

    fn webhook(listener: &TcpListener, scheme: &str) -> Webhook {
        let origin = format!("{scheme}://{}", listener.local_addr().unwrap());
        Webhook {
            url: format!("{origin}/hook/s3cret"),
            origin,
            format: PayloadFormat::Generic,
            timeout: Duration::from_secs(5),
            roots: None,
        }
    }

    /// Answers one request per connection with each status in turn; gives the bodies.
    fn receiver(listener: TcpListener, statuses: Vec<u16>) -> std::thread::JoinHandle<Vec<String>> {
        std::thread::spawn(move || {
            let answer = |status: &u16| {
                let (stream, _) = listener.accept().unwrap();
                serve(stream, *status)
            };
            statuses.iter().map(answer).collect()
        })
    }

    fn serve(mut stream: TcpStream, status: u16) -> String {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        String::from_utf8(body).unwrap()
    }

    fn until(what: &str, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !ready() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn delivers_after_a_failing_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hook = webhook(&listener, "http");
        let bodies = receiver(listener, vec![503, 429, 200]);
        let sender = AlertSender::start(&[hook], "gw1", QUICK).unwrap();
        sender.sink().notify(&change("orders"));
        let bodies = bodies.join().unwrap();
        assert_eq!(bodies.len(), 3);
        assert!(
            bodies
                .iter()
                .all(|b| *b == bodies[0] && b.contains("\"route\":\"orders\""))
        );
        until("counted", || sender.sink().counts() == (1, 0, 0));
        sender.stop();
    }

    #[test]
    fn gives_up_at_once_when_refused_and_in_the_end_when_not_answered() {
        for (statuses, what) in [
            (vec![404], "refused"),
            (vec![500, 500, 500], "never well"),
            (vec![302], "redirect"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let hook = webhook(&listener, "http");
            let bodies = receiver(listener, statuses);
            let sender = AlertSender::start(&[hook], "gw1", QUICK).unwrap();
            sender.sink().notify(&change("orders"));
            bodies.join().unwrap();
            until(what, || sender.sink().counts() == (0, 1, 0));
            sender.stop();
        }
    }

    #[test]
    fn one_dead_receiver_delays_nobody_and_a_stop_does_not_hang() {
        let dead = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts by backlog, never answers
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let hooks = [webhook(&dead, "http"), webhook(&alive, "http")];
        let bodies = receiver(alive, vec![200]);
        let sender = AlertSender::start(&hooks, "gw1", QUICK).unwrap();
        sender.sink().notify(&change("orders"));
        assert_eq!(bodies.join().unwrap().len(), 1);
        for _ in 0..2 * QUEUE_ALERTS {
            sender.sink().notify(&change("orders"));
        }
        assert!(sender.sink().counts().2 > 0); // bounded
        let started = Instant::now();
        sender.stop();
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn tls_is_verified() {
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        for (roots, expected) in [
            (None, (0, 1, 0)),
            (Some(issued.cert.pem().into_bytes().into()), (1, 0, 0)),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let hook = Webhook {
                roots,
                ..webhook(&listener, "https")
            };
            let config = config.clone();
            std::thread::spawn(move || {
                let (mut tcp, _) = listener.accept().unwrap();
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                // The body is the last thing sent, and it ends in "}".
                while !seen.ends_with(b"}") {
                    match stream.read(&mut chunk) {
                        Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 X\r\n\r\n");
            });
            let sender = AlertSender::start(
                &[hook],
                "gw1",
                Retry {
                    attempts: 1,
                    ..QUICK
                },
            )
            .unwrap();
            sender.sink().notify(&change("orders"));
            until("an outcome", || sender.sink().counts() == expected);
            sender.stop();
        }
    }
}
