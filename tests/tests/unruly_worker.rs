//! A worker that strangers have taken over, as far as the warden can tell: it keeps its process, and misuses the
//! channel. The warden must neither spin nor hang with it.
#![allow(
    unsafe_code,
    reason = "another process's descriptor is taken by two system calls that no crate here wraps"
)]

use gateway_tests::client::get;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::skip::skip_without_root;
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{Shutdown, getsockopt, shutdown};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The worker's end of the channel: the one socket of its whose peer is the warden. `None`: this process may not.
fn channel(gateway: &Gateway, worker: u32) -> Option<UnixStream> {
    let warden = gateway.warden_pid() as i32;
    // SAFETY: no pointers; the result is checked.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, worker, 0) };
    assert!(process >= 0, "pidfd_open");
    // SAFETY: a descriptor just made, owned by nobody else.
    let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
    for entry in fs::read_dir(format!("/proc/{worker}/fd")).ok()?.flatten() {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        // SAFETY: no pointers; the result is checked.
        let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        if taken < 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EPERM) {
                return None;
            }
            continue;
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let taken = unsafe { OwnedFd::from_raw_fd(taken as i32) };
        let is_channel = getsockopt(&taken, PeerCredentials).is_ok_and(|peer| peer.pid() == warden);
        let is_listener = getsockopt(&taken, nix::sys::socket::sockopt::AcceptConn).unwrap_or(true);
        if is_channel && !is_listener {
            return Some(taken.into());
        }
    }
    panic!("the worker has no channel")
}

/// Processor time that the warden has used.
fn cpu(gateway: &Gateway) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.warden_pid())).expect("stat");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..]
        .split(' ')
        .collect();
    let ticks: u64 = [12, 13]
        .map(|i| fields[i].parse::<u64>().expect("ticks"))
        .iter()
        .sum();
    Duration::from_millis(ticks * 10)
}

fn replaced(gateway: &Gateway, before: u32) {
    until("another worker", || {
        let output = gateway.cli(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["pid"].as_u64()? != u64::from(before)).then_some(())
    });
}

#[test]
fn a_worker_that_closes_its_channel_and_lives_is_replaced() {
    if skip_without_root("root, to reach into another process") {
        return;
    }
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let worker = gateway.worker_pid();
    let Some(channel) = channel(&gateway, worker) else {
        println!("SKIP: needs the right to trace processes");
        return;
    };
    // Stopped, it does not react to the end of the channel, as a hostile one would not.
    kill(Pid::from_raw(worker as i32), Signal::SIGSTOP).expect("SIGSTOP");
    let used = cpu(&gateway);
    shutdown(channel.as_raw_fd(), Shutdown::Both).expect("shut the channel");
    until("the warden's patience to end", || {
        gateway
            .stderr()
            .contains("closed its channel and lives")
            .then_some(())
    });
    replaced(&gateway, worker);
    let used = cpu(&gateway) - used;
    assert!(
        used < Duration::from_millis(500),
        "the warden used {used:?}"
    );
    assert_eq!(gateway.http().ask(get("/")).status, 200);
}

#[test]
fn a_worker_that_asks_for_reloads_all_the_time_does_not_get_them() {
    if skip_without_root("root, to reach into another process") {
        return;
    }
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let worker = gateway.worker_pid();
    let Some(mut channel) = channel(&gateway, worker) else {
        println!("SKIP: needs the right to trace processes");
        return;
    };
    // Nobody but this test reads the answers now.
    kill(Pid::from_raw(worker as i32), Signal::SIGSTOP).expect("SIGSTOP");
    channel.set_nonblocking(false).expect("blocking");
    let mut answers = channel.try_clone().expect("clone");
    let reader = std::thread::spawn(move || {
        let mut part = [0; 4096];
        while answers.read(&mut part).is_ok_and(|n| n > 0) {}
    });
    let body = br#"{"Reload":{"ticket":99}}"#;
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.push(16);
    frame.extend_from_slice(body);
    let used = cpu(&gateway);
    channel
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    for _ in 0..10_000 {
        channel.write_all(&frame).expect("the warden reads on");
    }
    let used = cpu(&gateway) - used;
    assert!(used < Duration::from_secs(2), "the warden used {used:?}");
    // It still answers signals at once, and has not let itself be talked into a load for each.
    gateway.signal(Signal::SIGTERM);
    until("draining", || {
        gateway.stderr().contains("draining").then_some(())
    });
    kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("SIGKILL");
    gateway.exit(Duration::from_secs(10)).expect("an end");
    drop(channel);
    reader.join().expect("the reader");
}

#[test]
fn a_worker_that_answers_what_it_was_not_asked_is_replaced() {
    if skip_without_root("root, to reach into another process") {
        return;
    }
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    for forged in [
        &br#"{"Published":{"number":1,"errors":[]}}"#[..],
        br#""Ready""#,
        b"{",
    ] {
        let worker = gateway.worker_pid();
        let Some(mut channel) = channel(&gateway, worker) else {
            println!("SKIP: needs the right to trace processes");
            return;
        };
        let mut frame = (forged.len() as u32).to_le_bytes().to_vec();
        frame.push(16);
        frame.extend_from_slice(forged);
        channel.write_all(&frame).expect("the warden reads");
        replaced(&gateway, worker);
        assert_eq!(gateway.http().ask(get("/")).status, 200);
    }
    assert_eq!(gateway.stderr().matches(": killed").count(), 3);
}
