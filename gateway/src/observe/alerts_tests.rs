//! Deliveries to receivers on this machine.

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
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
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
