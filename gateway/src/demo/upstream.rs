//! The demo's upstream: a plain HTTP/1.1 service that answers, echoes, stalls, streams and upgrades, so that
//! everything the gateway does can be seen from both sides. Also what tests and benches forward to.

use anyhow::{Context, Result};
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, Query};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// A response of 128 bytes, the size that proxies are compared with.
const JSON_BODY: &str = concat!(
    r#"{"service":"demo","status":"ok","items":[1,2,3,4,5,6,7,8,9,10],"#,
    r#""note":"a small body, the size of a typical API reply.........."}"#
);
const ECHO_BYTES_MAX: usize = 1 << 20;
const BYTES_MAX: u64 = 1 << 30;
const CHUNK_BYTES: u64 = 64 << 10;
const CHUNKS_MAX: u32 = 10_000;
const WAIT_MS_MAX: u64 = 60_000;

/// Runs until the process ends, on a thread of its own runtime.
pub fn run(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("bind the demo upstream to {listen}"))?;
        serve(listener).await.context("serve the demo upstream")
    })
}

/// Serves connections of an already bound listener.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    axum::serve(listener, router()).await
}

pub fn router() -> Router {
    Router::new()
        .route(
            "/echo",
            any(echo).layer(DefaultBodyLimit::max(ECHO_BYTES_MAX)),
        )
        .route("/json", get(small_json))
        .route("/orders", get(list_orders).post(create_order))
        .route("/orders/", get(list_orders).post(create_order))
        .route("/orders/{id}", get(read_order))
        .route("/slow", any(slow))
        .route("/stream", get(stream_chunks))
        .route("/bytes/{n}", get(bytes))
        .route("/status/{code}", any(status))
        .route("/ws", any(echo_messages))
        .route(
            "/upload",
            any(count_bytes).layer(DefaultBodyLimit::disable()),
        )
}

/// What arrived, as JSON: shows which fields the gateway sets and which it takes away.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let fields: Vec<Value> = headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    Json(json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": fields,
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn small_json() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], JSON_BODY)
}

fn order(id: u64, item: &str, quantity: u64) -> Value {
    json!({ "id": id, "item": item, "quantity": quantity })
}

async fn list_orders() -> Json<Value> {
    Json(json!({ "orders": [order(1, "lamp", 2), order(2, "chair", 4)] }))
}

async fn read_order(Path(id): Path<u64>) -> Json<Value> {
    Json(order(id, "lamp", 2))
}

/// Trusts its input: validation is the gateway's part of the demo.
async fn create_order(Json(mut order): Json<Value>) -> impl IntoResponse {
    if let Some(fields) = order.as_object_mut() {
        fields.insert("id".to_owned(), json!(3));
    }
    let location = [(header::LOCATION, "/orders/3")];
    (StatusCode::CREATED, location, Json(order))
}

#[derive(serde::Deserialize)]
struct Wait {
    #[serde(default)]
    ms: u64,
}

impl Wait {
    async fn pass(&self) {
        tokio::time::sleep(Duration::from_millis(self.ms.min(WAIT_MS_MAX))).await;
    }
}

async fn slow(Query(wait): Query<Wait>) -> Json<Value> {
    wait.pass().await;
    Json(json!({ "waited_ms": wait.ms.min(WAIT_MS_MAX) }))
}

#[derive(serde::Deserialize)]
struct Chunks {
    #[serde(default = "ten")]
    chunks: u32,
    #[serde(default)]
    ms: u64,
}

fn ten() -> u32 {
    10
}

/// No length is known ahead, so the body goes out chunked.
async fn stream_chunks(Query(query): Query<Chunks>) -> Response {
    let total = query.chunks.min(CHUNKS_MAX);
    let wait = Wait { ms: query.ms };
    let chunks = stream::unfold((0, wait), move |(sent, wait)| async move {
        if sent == total {
            return None;
        }
        if sent > 0 {
            wait.pass().await;
        }
        let line = Bytes::from(format!("chunk {}\n", sent + 1));
        Some((Ok::<_, Infallible>(line), (sent + 1, wait)))
    });
    Body::from_stream(chunks).into_response()
}

/// `n` bytes with a Content-Length, made as they are sent.
async fn bytes(Path(n): Path<u64>) -> Response {
    if n > BYTES_MAX {
        return (StatusCode::BAD_REQUEST, format!("at most {BYTES_MAX}\n")).into_response();
    }
    let chunk = Bytes::from(vec![b'x'; n.min(CHUNK_BYTES) as usize]);
    let body = stream::unfold((n, chunk), |(left, chunk)| async move {
        let now = left.min(CHUNK_BYTES);
        (now > 0).then(|| {
            (
                Ok::<_, Infallible>(chunk.slice(..now as usize)),
                (left - now, chunk),
            )
        })
    });
    let length = [(header::CONTENT_LENGTH, n.to_string())];
    (length, Body::from_stream(body)).into_response()
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    // Informational codes cannot end an exchange.
    let code = StatusCode::from_u16(code).ok();
    code.filter(|code| code.as_u16() >= 200)
        .unwrap_or(StatusCode::BAD_REQUEST)
}

async fn echo_messages(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket: WebSocket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            let sent = match message {
                Message::Text(_) | Message::Binary(_) => socket.send(message).await,
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => Ok(()),
            };
            if sent.is_err() {
                break;
            }
        }
    })
}

async fn count_bytes(body: Body) -> Result<Json<Value>, StatusCode> {
    let mut data = body.into_data_stream();
    let mut received_bytes = 0;
    while let Some(chunk) = data.next().await {
        received_bytes += chunk.map_err(|_| StatusCode::BAD_REQUEST)?.len() as u64;
    }
    Ok(Json(json!({ "received_bytes": received_bytes })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// One request on its own connection, read to the end.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        String::from_utf8(response).unwrap()
    }

    #[test]
    fn answers_over_tcp() {
        let table = [
            ("GET /json", "", "200 OK", JSON_BODY),
            ("POST /echo?a=b", "hello", "200 OK", r#""query":"a=b""#),
            ("GET /orders", "", "200 OK", r#""item":"lamp""#),
            ("GET /orders/7", "", "200 OK", r#""id":7"#),
            (
                "POST /orders",
                r#"{"item":"desk","quantity":1}"#,
                "201 Created",
                "desk",
            ),
            ("GET /slow?ms=1", "", "200 OK", r#"{"waited_ms":1}"#),
            ("GET /stream?chunks=2", "", "200 OK", "chunk 2\n"),
            ("GET /bytes/3", "", "200 OK", "xxx"),
            ("GET /bytes/9999999999", "", "400 Bad Request", "at most"),
            ("GET /status/418", "", "418 I'm a teapot", ""),
            ("GET /status/100", "", "400 Bad Request", ""),
            ("POST /upload", "12345", "200 OK", r#"{"received_bytes":5}"#),
            ("GET /nowhere", "", "404 Not Found", ""),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener));
            for (line, body, status, contains) in table {
                let request = format!(
                    "{line} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let response = exchange(address, &request).await;
                assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {response}");
                assert!(response.contains(contains), "{line}: {response}");
            }
            server.abort();
        });
        assert_eq!(JSON_BODY.len(), 128);
    }
}
