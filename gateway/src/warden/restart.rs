//! Which changes a running gateway cannot take over: sockets, users and attachments are made once, by root.

use crate::config::Snapshot;
use crate::diagnose::Diagnostic;

/// One diagnostic for each such change; empty if `new` can be published.
pub fn needed(old: &Snapshot, new: &Snapshot) -> Vec<Diagnostic> {
    let addresses = |s: &Snapshot| {
        let all = s.listeners.iter().map(|l| (l.name.clone(), l.address));
        all.collect::<Vec<_>>()
    };
    let interfaces = |s: &Snapshot| {
        let filter = s.filter.as_ref().filter(|filter| filter.enabled);
        filter.map(|f| (f.interfaces.clone(), f.sources, f.list_entries))
    };
    let checks = [
        ("listeners", addresses(old) != addresses(new)),
        ("server.workers", old.server.workers != new.server.workers),
        ("server.user", old.server.user != new.server.user),
        (
            "server.limiter_keys_max",
            old.server.limiter_keys_max != new.server.limiter_keys_max,
        ),
        ("admin.socket", old.admin.socket != new.admin.socket),
        ("admin.metrics", old.admin.metrics != new.admin.metrics),
        ("filter", interfaces(old) != interfaces(new)),
        ("access_log", old.access_log != new.access_log),
        ("audit_log", old.audit_log != new.audit_log),
    ];
    checks
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(path, _)| Diagnostic {
            path: path.into(),
            reason: "cannot change while the gateway runs".into(),
            hint: "undo the change, or restart the gateway".into(),
        })
        .collect()
}
