//! Seeded simulation of whole exchanges: the real connection loop, relay and pool over in-memory
//! pipes that split, stall and reset, on a virtual clock. Each seed is one schedule; a failure
//! prints it, and `SIMULATION_SEED=n` runs it alone.

use super::core::Core;
use super::shared::Shared;
use super::sim::{self, Rng, SimEnd};
use super::socket::Socket;
use crate::config;
use crate::diagnose::Files;
use crate::http::Framing;
use crate::http::body::{Carry, Decoder, finish_chunks};
use crate::http::chunked::{ChunkedDecoder, encode_chunk_head};
use crate::http::response::{ResponseFraming, parse_response};
use crate::http::{HeadLimits, HeadScratch, HeaderSpace, Parsed, parse};
use crate::observe::metrics::Metrics;
use crate::observe::record::CoreRecorder;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const SEEDS: u64 = 256;
/// Virtual time after which an exchange that still runs has hung: beyond every deadline of the config.
const HANG_NS: u64 = 600_000_000_000;
const TICK_NS: u64 = 50_000_000;

/// What one request and its response look like, known to both ends.
#[derive(Clone, Debug)]
struct Script {
    method: &'static str,
    /// `None`: no body; else its bytes and whether they go in chunks.
    body: Option<(Vec<u8>, bool)>,
    answer: Vec<u8>,
    answer_framing: AnswerFraming,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum AnswerFraming {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    /// The client vanishes after sending that many bytes.
    client_resets_after: Option<usize>,
    /// The client stops sending (but stays) after that many bytes.
    client_stalls_after: Option<usize>,
    /// The n-th upstream connection vanishes after answering with that many bytes.
    upstream_resets: Option<(usize, usize)>,
    /// The upstream never answers the n-th request.
    upstream_silent: Option<usize>,
    /// The upstream closes each connection after so many requests, without saying so.
    upstream_closes_after: Option<usize>,
}

impl Faults {
    fn any(&self) -> bool {
        self.client_resets_after.is_some()
            || self.client_stalls_after.is_some()
            || self.upstream_resets.is_some()
            || self.upstream_silent.is_some()
            || self.upstream_closes_after.is_some()
    }
}

/// Index and body of each request that reached an upstream, in order.
type Seen = Rc<RefCell<Vec<(usize, Vec<u8>)>>>;

struct Plan {
    scripts: Vec<Script>,
    faults: Faults,
}

fn plan(rng: &mut Rng) -> Plan {
    let size = |rng: &mut Rng| match rng.below(4) {
        0 => 0,
        1 => rng.below(100),
        2 => rng.below(5_000),
        _ => rng.below(200_000),
    };
    let bytes = |n: usize, rng: &mut Rng| (0..n).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    let scripts = (0..1 + rng.below(4))
        .map(|_| {
            let has_body = rng.one_in(2);
            let n = size(rng);
            let body = has_body.then(|| (bytes(n, rng), rng.one_in(2)));
            let n = size(rng);
            Script {
                method: if has_body { "POST" } else { "GET" },
                body,
                answer: bytes(n, rng),
                answer_framing: match rng.below(5) {
                    0 | 1 => AnswerFraming::Length,
                    2 | 3 => AnswerFraming::Chunked,
                    _ => AnswerFraming::UntilClose,
                },
            }
        })
        .collect();
    let mut faults = Faults::default();
    match rng.below(10) {
        0 => faults.client_resets_after = Some(rng.below(3_000)),
        1 => faults.client_stalls_after = Some(rng.below(3_000)),
        2 => faults.upstream_resets = Some((rng.below(2), rng.below(3_000))),
        3 => faults.upstream_silent = Some(rng.below(3)),
        4 => faults.upstream_closes_after = Some(1 + rng.below(2)),
        _ => {}
    }
    Plan { scripts, faults }
}

fn request_bytes(index: usize, script: &Script, rng: &mut Rng) -> Vec<u8> {
    let mut out = format!("{} /{index} HTTP/1.1\r\nHost: api.test\r\n", script.method).into_bytes();
    match &script.body {
        None => out.extend_from_slice(b"\r\n"),
        Some((body, false)) => {
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
        }
        Some((body, true)) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            push_chunks(body, rng, &mut out);
        }
    }
    out
}

fn push_chunks(mut body: &[u8], rng: &mut Rng, out: &mut Vec<u8>) {
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(1 + rng.below(body.len()));
        encode_chunk_head(chunk.len(), out);
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        body = rest;
    }
    finish_chunks(out);
}

fn answer_bytes(script: &Script, rng: &mut Rng) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    match script.answer_framing {
        AnswerFraming::Length => {
            out.extend_from_slice(
                format!("Content-Length: {}\r\n\r\n", script.answer.len()).as_bytes(),
            );
            out.extend_from_slice(&script.answer);
        }
        AnswerFraming::Chunked => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            push_chunks(&script.answer, rng, &mut out);
        }
        AnswerFraming::UntilClose => {
            out.extend_from_slice(b"Connection: close\r\n\r\n");
            out.extend_from_slice(&script.answer);
        }
    }
    out
}

/// Reads one request from `end`; `None` at its end. Panics on bytes a strict upstream would refuse.
async fn read_request(end: &SimEnd, carry: &mut Carry) -> Option<(usize, Vec<u8>)> {
    let (index, mut decoder) = loop {
        let mut scratch = HeadScratch::new();
        let mut space = HeaderSpace::default();
        if !carry.is_empty()
            && let Parsed::Complete { head, head_len, .. } = parse(
                carry.unread(),
                &HeadLimits::default(),
                &mut scratch,
                &mut space,
            )
            .expect("the gateway sends strict heads")
        {
            assert_eq!(head.header("x-forwarded-for"), Some(&b"192.0.2.1"[..]));
            let decoder = match head.framing {
                Framing::Empty => Decoder::Done,
                Framing::Length(n) => Decoder::Length(n),
                Framing::Chunked => Decoder::Chunked(ChunkedDecoder::new()),
            };
            let index = head.path[1..].parse().expect("the index");
            carry.consume(head_len);
            break (index, decoder);
        }
        if !more(end, carry).await {
            return None;
        }
    };
    let mut body = Vec::new();
    loop {
        decoder
            .pump(carry, &mut body, usize::MAX, false)
            .expect("the gateway frames bodies strictly");
        if decoder.is_done() {
            return Some((index, body));
        }
        if !more(end, carry).await {
            return None;
        }
    }
}

async fn more(end: &SimEnd, carry: &mut Carry) -> bool {
    let space = carry.space();
    space.reserve(4096);
    let (result, back) = end.recv(std::mem::take(space)).await;
    *space = back;
    matches!(result, Ok(n) if n > 0)
}

/// Serves one upstream connection as the plan says. Returns nothing: what it saw goes to `seen`.
async fn upstream(end: SimEnd, connection: usize, plan: Rc<Plan>, mut rng: Rng, seen: Seen) {
    let mut carry = Carry::default();
    let mut served = 0;
    while let Some((index, body)) = read_request(&end, &mut carry).await {
        seen.borrow_mut().push((index, body));
        if plan.faults.upstream_silent == Some(index) {
            std::future::pending::<()>().await;
        }
        let script = &plan.scripts[index];
        let mut answer = answer_bytes(script, &mut rng);
        if let Some((at, bytes)) = plan.faults.upstream_resets
            && at == connection
            && answer.len() > bytes
        {
            answer.truncate(bytes);
            let _ = end.send(&answer).await;
            end.reset();
            return;
        }
        if end.send(&answer).await.is_err() || script.answer_framing == AnswerFraming::UntilClose {
            return;
        }
        served += 1;
        if plan.faults.upstream_closes_after == Some(served) {
            return;
        }
    }
}

/// Sends the requests one after the other, or all at once, and reads the responses.
async fn client(end: SimEnd, plan: Rc<Plan>, mut rng: Rng) -> Vec<(u16, Option<Vec<u8>>)> {
    let pipelined = rng.one_in(3);
    let mut wire: Vec<Vec<u8>> = plan
        .scripts
        .iter()
        .enumerate()
        .map(|(i, s)| request_bytes(i, s, &mut rng))
        .collect();
    if pipelined {
        wire = vec![wire.concat()];
    }
    let (mut responses, mut carry, mut sent) = (Vec::new(), Carry::default(), 0usize);
    for part in &wire {
        let cut = [
            plan.faults.client_resets_after,
            plan.faults.client_stalls_after,
        ]
        .into_iter()
        .flatten()
        .next();
        let allowed = cut.map_or(part.len(), |c| c.saturating_sub(sent).min(part.len()));
        let sending = async {
            let ok = end.send(&part[..allowed]).await;
            if allowed < part.len() && plan.faults.client_resets_after.is_some() {
                end.reset();
            }
            ok
        };
        let expect = if pipelined { plan.scripts.len() } else { 1 };
        let receiving = async {
            let mut got = Vec::new();
            for i in 0..expect {
                let method = plan.scripts[responses.len() + i].method;
                match read_response(&end, &mut carry, method).await {
                    Some(response) => got.push(response),
                    None => break,
                }
            }
            got
        };
        let (_, got) = futures_util::future::join(sending, receiving).await;
        let complete = got.len() == expect && got.iter().all(|r| r.1.is_some());
        responses.extend(got);
        sent += part.len();
        if !complete || allowed < part.len() {
            break;
        }
    }
    responses
}

/// Status and body; `None` for a body that was cut off, nothing at all where no head came.
async fn read_response(
    end: &SimEnd,
    carry: &mut Carry,
    method: &str,
) -> Option<(u16, Option<Vec<u8>>)> {
    let (status, mut decoder) = loop {
        let mut space = HeaderSpace::default();
        if !carry.is_empty() {
            let parsed = parse_response(carry.unread(), method, &HeadLimits::default(), &mut space);
            if let Some((head, bytes)) = parsed.expect("the gateway sends strict responses") {
                let decoder = match head.framing {
                    ResponseFraming::Empty => Decoder::Done,
                    ResponseFraming::Length(n) => Decoder::Length(n),
                    ResponseFraming::Chunked => Decoder::Chunked(ChunkedDecoder::new()),
                    ResponseFraming::UntilClose => Decoder::UntilClose,
                };
                let status = head.status;
                carry.consume(bytes);
                break (status, decoder);
            }
        }
        if !more(end, carry).await {
            return None;
        }
    };
    let mut body = Vec::new();
    loop {
        decoder
            .pump(carry, &mut body, usize::MAX, false)
            .expect("the gateway frames bodies strictly");
        if decoder.is_done() {
            return Some((status, Some(body)));
        }
        if !more(end, carry).await {
            return Some((status, None));
        }
    }
}

fn shared() -> Arc<Shared> {
    let text = r#"
        [[listeners]]
        name = "test"
        address = "127.0.0.1:1"
        [[upstreams]]
        name = "sim"
        targets = ["127.0.0.1:2"]
        [[routes]]
        name = "all"
        path = "/*"
        upstream = "sim"
    "#;
    let compiled = config::compile(text, &Files::default(), &mut config::Ids::default())
        .expect("the config of the simulation");
    Arc::new(Shared::for_tests(compiled.snapshot))
}

/// One seed, start to end.
async fn run(seed: u64) {
    let mut rng = Rng(seed);
    let plan = Rc::new(plan(&mut rng));
    let shared = shared();
    let metrics: Arc<Metrics> = shared.metrics.clone();
    let core = Rc::new(Core::new(
        shared,
        CoreRecorder::new(None, None, metrics.core()),
    ));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (for_upstreams, upstream_seen, upstream_rng) =
        (plan.clone(), seen.clone(), RefCell::new(Rng(rng.next())));
    let connections = std::cell::Cell::new(0);
    sim::set_upstreams(Some(Box::new(move || {
        let mut rng = upstream_rng.borrow_mut();
        let (ours, theirs) = sim::pair(&mut rng);
        let n = connections.replace(connections.get() + 1);
        tokio::task::spawn_local(upstream(
            theirs,
            n,
            for_upstreams.clone(),
            Rng(rng.next()),
            upstream_seen.clone(),
        ));
        Some(ours)
    })));
    let (ours, theirs) = sim::pair(&mut rng);
    let peer = std::net::SocketAddr::from(([192, 0, 2, 1], 4711));
    let served = tokio::task::spawn_local(super::conn::serve(
        core.clone(),
        Socket::simulated(ours),
        0,
        peer,
    ));
    let client = tokio::task::spawn_local(client(theirs, plan.clone(), Rng(rng.next())));

    // Many small steps of the tasks for one step of the clock.
    let mut now_ns = crate::clock::mono_coarse_ns();
    let hang_ns = now_ns + HANG_NS;
    while !served.is_finished() || !client.is_finished() {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        now_ns += TICK_NS;
        core.deadlines.tick(now_ns);
        assert!(
            now_ns < hang_ns,
            "still running after {}s: {:?}",
            HANG_NS / 1_000_000_000,
            plan.faults
        );
    }
    served.await.expect("the connection's task");
    let responses = client.await.expect("the client's task");
    sim::set_upstreams(None);
    check(&plan, &responses, &seen.borrow(), &metrics);
    core.pools.clear();
    assert_eq!(core.deadlines.open(), 0, "a connection is left over");
}

fn check(
    plan: &Plan,
    responses: &[(u16, Option<Vec<u8>>)],
    seen: &[(usize, Vec<u8>)],
    metrics: &Metrics,
) {
    let totals = metrics.totals();
    // Whatever happened: what reached the upstream is what was sent, and never half of it as if whole.
    for (index, body) in seen {
        let sent = plan.scripts[*index]
            .body
            .as_ref()
            .map_or(&[][..], |(b, _)| b);
        assert!(
            body == sent,
            "request {index}: the upstream saw another body"
        );
    }
    // A complete 200 carries exactly the upstream's answer.
    for (i, (status, body)) in responses.iter().enumerate() {
        if let (200, Some(body)) = (status, body) {
            assert!(
                *body == plan.scripts[i].answer,
                "response {i}: the client saw another body"
            );
        }
        assert!(
            matches!(status, 200 | 408 | 502 | 504),
            "response {i} has status {status}"
        );
    }
    // One record for each exchange begun: each response, and at most one that got none.
    let records = totals.all.requests as usize;
    assert!(
        records == responses.len() || records == responses.len() + 1,
        "{records} records, {} responses",
        responses.len()
    );
    if !plan.faults.any() {
        assert_eq!(responses.len(), plan.scripts.len(), "responses are missing");
        assert!(
            responses
                .iter()
                .all(|(status, body)| *status == 200 && body.is_some()),
            "{responses:?}"
        );
        let order: Vec<usize> = seen.iter().map(|(i, _)| *i).collect();
        assert_eq!(
            order,
            (0..plan.scripts.len()).collect::<Vec<_>>(),
            "requests out of order"
        );
        assert_eq!(records, plan.scripts.len());
    }
}

#[test]
fn exchanges_survive_every_schedule() {
    let seeds = match std::env::var("SIMULATION_SEED") {
        Ok(seed) => seed
            .parse()
            .map(|s: u64| s..s + 1)
            .expect("SIMULATION_SEED is a number"),
        Err(_) => 0..SEEDS,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    for seed in seeds {
        let local = tokio::task::LocalSet::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(local.run_until(run(seed)))
        }));
        sim::set_upstreams(None);
        if let Err(panic) = outcome {
            eprintln!("seed {seed} (run it alone with SIMULATION_SEED={seed})");
            std::panic::resume_unwind(panic);
        }
    }
}
