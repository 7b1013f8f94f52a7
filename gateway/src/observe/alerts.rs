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
#[path = "alerts_tests.rs"]
mod tests;
