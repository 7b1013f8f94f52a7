//! The control loop: one thread, one `select!`, everything that is not a request. Bans first, because every
//! microsecond of theirs lets packets through.

use super::link::Link;
use super::watch::Watch;
use crate::admin::{self, Command, bounded::Bounded, peer::Actor, reload::ReloadReport};
use crate::clock::{self, Now};
use crate::config::Ids;
use crate::kernel::{DropEvents, Filter, FilterLog};
use crate::limit::BanOrder;
use crate::net::Shared;
use crate::observe::alerts::AlertSender;
use crate::observe::audit::{AuditEvent, AuditLog};
use crate::observe::writer::LogWriter;
use crate::warden::channel::{ToWarden, ToWorker};
use anyhow::Context;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Expiry of bans, sweeping of tables, and while draining the look whether the cores have ended.
const TICK: Duration = Duration::from_millis(100);
/// Samples for the baselines.
const WATCH: Duration = Duration::from_secs(1);
/// Reloads asked for that the warden has not answered.
const WAITING_MAX: usize = 16;

/// A reload somebody waits for.
pub(super) struct Waiting {
    pub ticket: u64,
    pub actor: Actor,
    pub reply: admin::Reply<ReloadReport>,
}

/// State of the control thread.
pub(super) struct Control {
    pub config: String,
    pub started: Now,
    pub shared: Arc<Shared>,
    pub ids: Ids,
    pub filter: Option<Filter>,
    pub core_count: usize,
    pub audit: AuditLog,
    pub access: Option<LogWriter>,
    pub alerts: AlertSender,
    pub watch: Watch,
    pub waiting: Vec<Waiting>,
    pub next_ticket: u64,
}

/// What the loop listens to.
pub(super) struct Inputs {
    pub channel: UnixStream,
    pub admin: UnixListener,
    pub metrics: Option<TcpListener>,
    pub ordered: mpsc::Receiver<BanOrder>,
    pub cores: Vec<JoinHandle<()>>,
}

impl Control {
    /// Runs until every core has drained.
    pub async fn run(mut self, inputs: Inputs) -> anyhow::Result<Control> {
        let mut link = Link::start(inputs.channel)?;
        let (sender, mut commands) = mpsc::channel(admin::COMMANDS_MAX);
        serve_admin(inputs.admin, inputs.metrics, sender)?;
        let mut ordered = inputs.ordered;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let (mut tick, mut second) = (interval(TICK), interval(WATCH));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drops = self.filter.as_mut().and_then(Filter::take_events);
        let mut filter_log = self.filter.as_mut().and_then(Filter::take_logger);
        let detector = self.shared.snapshot.load().alerts.detector.clone();
        self.watch.reconfigure(detector);
        link.send(&ToWarden::Ready);
        loop {
            tokio::select! {
                biased;
                Some(order) = ordered.recv() => self.carry_out(order),
                message = link.next() => match message {
                    Some(message) => self.on_message(message, &link),
                    // The warden is gone, and with it whoever could replace or stop this process.
                    None => self.drain("the warden is gone"),
                },
                Some(command) = commands.recv() => self.apply(command, &link),
                _ = terminate.recv() => self.drain("SIGTERM"),
                event = next_drop(&mut drops) => self.on_drop(&event),
                () = forward(&mut filter_log) => {}
                _ = tick.tick() => {
                    self.sweep();
                    match look(&inputs.cores, self.is_draining()) {
                        Cores::Work => {}
                        Cores::Drained => break,
                        Cores::Broken => return self.give_up(),
                    }
                }
                _ = second.tick() => self.watch_once(),
            }
        }
        for core in inputs.cores {
            if core.join().is_err() {
                tracing::error!("a core has panicked");
            }
        }
        Ok(self)
    }

    /// The kernel goes on giving a dead core its share of the connections, which nobody accepts: better a new worker.
    fn give_up(self) -> anyhow::Result<Control> {
        self.audit.sink().emit(AuditEvent::Stopping {
            reason: "a core has ended unexpectedly".to_owned(),
        });
        self.stop();
        anyhow::bail!("a core has ended unexpectedly")
    }

    fn is_draining(&self) -> bool {
        self.shared.draining.load(Relaxed)
    }

    pub fn drain(&mut self, reason: &str) {
        if self.shared.draining.swap(true, Relaxed) {
            return;
        }
        tracing::info!(
            reason,
            open = self.shared.connections.load(Relaxed),
            "draining"
        );
        self.audit.sink().emit(AuditEvent::Stopping {
            reason: reason.to_owned(),
        });
    }

    fn on_message(&mut self, message: ToWorker, link: &Link) {
        match message {
            ToWorker::Publish {
                ticket,
                number,
                bundle,
            } => {
                let errors = self.publish(&bundle);
                self.answer(ticket, &errors);
                link.send(&ToWarden::Published { number, errors });
            }
            ToWorker::Refused { ticket, errors } => self.answer(ticket, &errors),
            ToWorker::ReopenLogs => {
                self.audit.reopen();
                if let Some(access) = &self.access {
                    access.reopen();
                }
            }
            ToWorker::Drain => self.drain("the warden was told to stop"),
        }
    }

    /// Asks the warden, which alone can read the config; the answer comes as a message.
    pub fn ask_reload(&mut self, actor: Actor, reply: admin::Reply<ReloadReport>, link: &Link) {
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        if self.waiting.len() >= WAITING_MAX {
            return; // dropping the reply answers 503
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Waiting {
            ticket,
            actor,
            reply,
        });
        link.send(&ToWarden::Reload { ticket });
    }

    fn sweep(&mut self) {
        let now = Now::read();
        self.expire_bans(now);
        self.shared.limits.sweep(now.mono_ns);
        let snapshot = self.shared.snapshot.load();
        self.shared.strikes.sweep(&snapshot.strikes, now);
    }

    /// Writes out what the logs still hold. After the cores have ended.
    pub fn stop(self) {
        if let Some(access) = self.access {
            access.stop();
        }
        self.alerts.stop();
        self.audit.stop();
        tracing::info!(
            served_secs = clock::mono_ns().saturating_sub(self.started.mono_ns) / 1_000_000_000,
            "drained"
        );
    }
}

/// How the data plane's threads are.
#[derive(Debug, PartialEq, Eq)]
enum Cores {
    Work,
    Drained,
    /// At least one is gone that nobody told to.
    Broken,
}

fn look(cores: &[JoinHandle<()>], draining: bool) -> Cores {
    let ended = cores.iter().filter(|core| core.is_finished()).count();
    match (draining, ended) {
        (true, n) if n == cores.len() => Cores::Drained,
        (false, 1..) => Cores::Broken,
        _ => Cores::Work,
    }
}

fn serve_admin(
    admin: UnixListener,
    metrics: Option<TcpListener>,
    commands: mpsc::Sender<Command>,
) -> anyhow::Result<()> {
    let control = admin::Control(commands);
    let listener = tokio::net::UnixListener::from_std(admin).context("admin socket")?;
    let service = admin::router(control.clone()).into_make_service_with_connect_info::<Actor>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    if let Some(metrics) = metrics {
        let listener = tokio::net::TcpListener::from_std(metrics).context("metrics listener")?;
        let router = admin::metrics_router(control);
        tokio::spawn(async move { axum::serve(Bounded::new(listener), router).await });
    }
    Ok(())
}

/// Never, when there is no filter or its stream has ended.
async fn next_drop(drops: &mut Option<DropEvents>) -> crate::kernel::DropEvent {
    if let Some(stream) = drops {
        match stream.next().await {
            Ok(event) => return event,
            Err(error) => tracing::error!(%error, "no more drop events"),
        }
        *drops = None;
    }
    std::future::pending().await
}

async fn forward(log: &mut Option<FilterLog>) {
    if let Some(stream) = log {
        match stream.forward().await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "no more messages of the kernel filter"),
        }
        *log = None;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_that_ends_by_itself_is_one_too_many() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let cores = [
            std::thread::spawn(move || {
                let _ = held.recv();
            }),
            std::thread::spawn(|| ()),
        ];
        while !cores[1].is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(look(&cores, false), Cores::Broken);
        assert_eq!(
            look(&cores, true),
            Cores::Work,
            "draining waits for the other"
        );
        assert_eq!(look(&cores[..1], false), Cores::Work);
        drop(hold);
        while !cores[0].is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(look(&cores, true), Cores::Drained);
    }
}
