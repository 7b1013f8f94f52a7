//! After a switch of protocols (WebSocket): bytes both ways until both sides have ended, or nothing
//! has moved for a while.

use super::core::Core;
use super::socket::End;
use super::stream::Stream;
use crate::http::body::Carry;
use futures_util::future::join;
use std::time::Duration;

/// Silence in both directions after which a tunnel is closed.
const IDLE: Duration = Duration::from_secs(600);
/// Longest time one side may take for one part.
const SEND: Duration = Duration::from_secs(30);

pub struct Sent {
    pub to_upstream: u64,
    pub to_client: u64,
}

/// `early` and `answered` are bytes that came from the client and from the upstream with their heads.
pub async fn run(
    core: &Core,
    client: &Stream,
    early: Carry,
    upstream: &Stream,
    answered: Carry,
) -> Sent {
    let touch = || {
        client.deadline.arm(IDLE, End::Both);
        upstream.deadline.arm(IDLE, End::Both);
    };
    touch();
    let (to_upstream, to_client) = join(
        pipe(core, client, upstream, early, &touch),
        pipe(core, upstream, client, answered, &touch),
    )
    .await;
    Sent {
        to_upstream,
        to_client,
    }
}

async fn pipe(core: &Core, from: &Stream, to: &Stream, mut carry: Carry, touch: &impl Fn()) -> u64 {
    let mut buf = core.buffers.small();
    buf.extend_from_slice(carry.unread());
    carry.consume(buf.len());
    core.buffers.give(carry.release());
    let mut total = 0;
    loop {
        if !buf.is_empty() {
            if to.write(&mut buf, SEND).await.is_err() {
                // Nobody reads any more: the other direction has nobody to answer either.
                from.socket.end(End::Both);
                break;
            }
            total += buf.len() as u64;
            buf.clear();
            touch();
        }
        if !matches!(from.read(&mut buf).await, Ok(n) if n > 0) {
            to.close_write().await;
            break;
        }
    }
    core.buffers.give(buf);
    total
}
