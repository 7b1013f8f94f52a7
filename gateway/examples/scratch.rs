use gateway::{config, diagnose::Disk, net, observe};
use std::sync::{Arc, atomic::*};
fn main() {
    let text = std::fs::read_to_string(std::env::args().nth(1).unwrap()).unwrap();
    let mut ids = config::Ids::default();
    let disk = Disk::new("/tmp/scratch");
    let c = match config::compile(&text, &disk, &mut ids) {
        Ok(c) => c,
        Err(e) => {
            for d in e {
                println!("{d}")
            }
            return;
        }
    };
    let snapshot = c.snapshot;
    let dir = std::env::temp_dir().join(format!("scr{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    observe::audit::ensure_key(&dir.join("k")).unwrap();
    let key = observe::audit::AuditKey::load(&dir.join("k")).unwrap();
    let audit = observe::audit::AuditLog::start(
        observe::file::LogPlace {
            path: dir.join("a"),
            bytes_max: 1 << 30,
            keep: 1,
        },
        key,
    )
    .unwrap();
    let metrics = observe::metrics::Metrics::new();
    let mut fds = vec![];
    for (i, l) in snapshot.listeners.iter().enumerate() {
        let s = socket2::Socket::new(
            socket2::Domain::for_address(l.address),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        s.set_reuse_address(true).unwrap();
        s.set_reuse_port(true).unwrap();
        s.bind(&l.address.into()).unwrap();
        s.listen(4096).unwrap();
        fds.push((i, s.into()));
    }
    let (tx, _rx) = tokio::sync::mpsc::channel(16);
    let shared = Arc::new(net::Shared {
        snapshot: arc_swap::ArcSwap::from_pointee(snapshot),
        limits: Default::default(),
        strikes: Default::default(),
        bans: gateway::limit::BanTable::new(100, vec![]),
        ban_orders: tx,
        draining: AtomicBool::new(false),
        connections: AtomicUsize::new(0),
        metrics: metrics.clone(),
        audit: audit.sink(),
    });
    let rec = observe::record::CoreRecorder::new(None, None, metrics.core());
    net::spawn(net::CoreStart {
        id: 0,
        cpu: Some(1),
        listeners: fds,
        shared,
        recorder: rec,
    })
    .unwrap()
    .join()
    .unwrap();
}
