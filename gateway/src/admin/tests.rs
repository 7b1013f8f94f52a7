//! The API over a real socket, its control loop played by the test.

use super::client::{Client, ClientError};
use super::{COMMANDS_MAX, Command, Control, bans, peer, reload, router, status};
use tokio::sync::mpsc;

/// Serves on a socket in a fresh folder and answers with `apply`, while `ask` runs on a thread of its own.
fn with_api<T: Send + 'static>(
    apply: impl Fn(Command) + Send + 'static,
    ask: impl FnOnce(Client) -> T + Send + 'static,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (sender, mut commands) = mpsc::channel(COMMANDS_MAX);
        let service = router(Control(sender)).into_make_service_with_connect_info::<peer::Actor>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                apply(command);
            }
        });
        tokio::task::spawn_blocking(move || ask(Client::new(&path)))
            .await
            .unwrap()
    })
}

#[test]
fn each_request_becomes_its_command() {
    let apply = |command| match command {
        Command::Status { reply } => {
            let _ = reply.send(status::Status {
                version: "1".into(),
                ..Default::default()
            });
        }
        Command::AddBan { ban, actor, reply } => {
            assert_eq!(actor.uid, Some(nix::unistd::getuid().as_raw()));
            let ban = bans::BanView {
                target: ban.target.to_string(),
                origin: "manual".into(),
                reason: ban.reason,
                since_unix: 1,
                remaining_secs: ban.ttl.as_secs(),
            };
            let _ = reply.send(Ok(bans::BanAdded {
                ban,
                kernel: false,
                why: Some("off".into()),
            }));
        }
        Command::RemoveBan { reply, .. } => {
            let status = axum::http::StatusCode::NOT_FOUND;
            let _ = reply.send(Err(super::Refused::new(status, "no such ban")));
        }
        Command::Reload { reply, .. } => {
            let _ = reply.send(reload::ReloadReport::default());
        }
        Command::ListBans { reply } => {
            let _ = reply.send(Vec::new());
        }
        Command::Metrics { .. } => {} // the reply is dropped: 503
    };
    with_api(apply, |client| {
        let status: status::Status = client.get("/status").unwrap();
        assert_eq!(status.version, "1");
        let request = bans::AddBan {
            target: "192.0.2.1".into(),
            ttl_secs: 60,
            reason: "test".into(),
        };
        let added: bans::BanAdded = client.post("/bans", &request).unwrap();
        let ban = &added.ban;
        assert_eq!((&*ban.target, ban.remaining_secs), ("192.0.2.1/32", 60));
        assert_eq!((added.kernel, added.why.as_deref()), (false, Some("off")));
        let request = bans::RemoveBan {
            target: "192.0.2.1".into(),
        };
        let refused = client.delete::<bans::BanView>("/bans", &request);
        assert!(matches!(
            refused,
            Err(ClientError::Refused { status: 404, .. })
        ));
        let report: reload::ReloadReport = client.post("/reload", &()).unwrap();
        assert!(report.errors.is_empty());
        let none: Vec<bans::BanView> = client.get("/bans").unwrap();
        assert!(none.is_empty());
        for path in ["/metrics", "/nothing"] {
            assert!(client.get::<String>(path).is_err(), "{path}");
        }
    });
}

#[test]
fn bad_requests_reach_no_command() {
    with_api(
        |command| panic!("{command:?}"),
        |client| {
            let request = bans::AddBan {
                target: "everybody".into(),
                ttl_secs: 60,
                reason: String::new(),
            };
            let refused = client.post::<bans::BanView>("/bans", &request);
            assert!(matches!(
                refused,
                Err(ClientError::Refused { status: 400, .. })
            ));
        },
    );
}
