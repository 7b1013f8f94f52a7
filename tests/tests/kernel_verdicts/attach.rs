//! Attaching, in network namespaces of our own, and working on without privileges.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::clock::mono_ns;
use gateway::config::filter::{FilterConfig, Interface, Mode};
use gateway::kernel::{AttachState, Filter, KernelError};
use gateway_tests::kernel::FrameSpec;

use super::{PORTS, R, able, count, expect, load, net, nets, small};

/// Runs `f` on a thread in a network namespace of its own, which goes away with the thread.
fn in_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is passed; only this thread changes its namespace.
            let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(left, 0, "{}", std::io::Error::last_os_error());
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(
        status.expect("iproute2 is installed").success(),
        "ip {arguments}"
    );
}

fn on(name: &str, mode: Mode) -> FilterConfig {
    let interfaces = vec![Interface {
        name: name.to_owned(),
        mode,
    }];
    FilterConfig {
        enabled: true,
        interfaces,
        ..small()
    }
}

#[test]
fn attaches_natively_where_it_can_and_says_where_it_cannot() {
    if !able() {
        return;
    }
    in_namespace(|| {
        ip("link add gwk0 type veth peer name gwk1");
        ip("link set lo up");
        let native = load(&on("gwk0", Mode::Auto));
        assert_eq!(native.status().interfaces[0].mode, Mode::Native);

        let busy = Filter::load(&on("gwk0", Mode::Auto), PORTS).map(|_| ());
        assert!(matches!(busy, Err(KernelError::Busy { .. })), "{busy:?}");
        let missing = Filter::load(&on("gwk7", Mode::Auto), PORTS).map(|_| ());
        assert!(
            matches!(missing, Err(KernelError::NoInterface { .. })),
            "{missing:?}"
        );
        let driver = Filter::load(&on("lo", Mode::Native), PORTS).map(|_| ());
        assert!(
            matches!(driver, Err(KernelError::NativeUnsupported { .. })),
            "{driver:?}"
        );

        let generic = load(&on("lo", Mode::Auto));
        assert_eq!(generic.status().interfaces[0].mode, Mode::Generic);
        assert_eq!(generic.status().interfaces[0].asked, Mode::Auto);

        drop(native);
        let again = load(&on("gwk0", Mode::Generic));
        assert_eq!(again.status().interfaces[0].mode, Mode::Generic);
    });
}

#[test]
fn frames_on_the_wire_are_judged_and_counted() {
    if !able() {
        return;
    }
    in_namespace(|| {
        ip("link add gwk4 type veth peer name gwk5");
        ip("link set gwk4 up");
        ip("link set gwk5 up");
        for mode in [Mode::Native, Mode::Generic] {
            let filter = load(&FilterConfig {
                block: nets(["198.51.100.66/32"]),
                ..on("gwk4", mode)
            });
            let wire = Wire::open("gwk5");
            for _ in 0..100 {
                wire.send(&FrameSpec::from("198.51.100.66").build());
                wire.send(&FrameSpec::from("198.51.100.7").build());
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            let seen = || (count(&filter, R::BlockedAddress), count(&filter, R::Passed));
            while seen() != (100, 100) {
                assert!(
                    Instant::now() < deadline,
                    "{mode:?}: {:?} of 100 each",
                    seen()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

/// A packet socket: what is sent leaves by the interface as it is.
struct Wire {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Wire {
    fn open(interface: &str) -> Wire {
        let name = std::ffi::CString::new(interface).expect("no zero in it");
        // SAFETY: plain numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, and owned by no one else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a C string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: all zero is a valid address of this type.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index as i32;
        Wire { socket, to }
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: frame and address live through the call, and their lengths are theirs.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(
            sent,
            frame.len() as isize,
            "{}",
            std::io::Error::last_os_error()
        );
    }
}

#[test]
fn everything_after_load_works_without_privileges() {
    if !able() {
        return;
    }
    in_namespace(|| {
        ip("link add gwk2 type veth peer name gwk3");
        let mut config = on("gwk2", Mode::Auto);
        let mut filter = load(&config);
        drop_privileges_of_this_thread();
        let refused = Filter::load(&small(), PORTS).map(|_| ());
        assert!(
            matches!(refused, Err(KernelError::Privilege)),
            "{refused:?}"
        );

        let frame = FrameSpec::default().build();
        filter
            .ban(net("198.51.100.7/32"), 1, u64::MAX)
            .expect("bans");
        expect(&filter, &frame, R::BlockedAddress, "banned");
        let mut events = filter.take_events().expect("mappable");
        assert!(events.try_next().is_some());
        assert!(filter.unban(net("198.51.100.7/32")).expect("unbans"));
        config.block = nets(["198.51.0.0/16", "198.51.100.7/32", "2001:db8::/32"]);
        filter.apply(&config, &[8443]).expect("applies");
        expect(&filter, &frame, R::BlockedAddress, "by the config");
        config.block.clear();
        filter.apply(&config, &[8443]).expect("applies");
        expect(&filter, &frame, R::Passed, "by no one");
        filter.sweep_expired(mono_ns()).expect("sweeps");
        filter.check_attached();
        let attached = [("gwk2".to_owned(), AttachState::Attached)];
        assert_eq!(filter.attached(), attached);
        assert_eq!(filter.adopt().expect("adopts"), []);
    });
}

#[test]
fn a_filter_that_is_no_longer_there_says_so() {
    if !able() {
        return;
    }
    in_namespace(|| {
        let state = |filter: &mut Filter| {
            filter.check_attached();
            assert_eq!(filter.status().interfaces[0].state, filter.attached()[0].1);
            filter.attached()[0].1
        };
        ip("link add gwk6 type veth peer name gwk7");
        for mode in [Mode::Native, Mode::Generic] {
            let mut filter = load(&on("gwk6", mode));
            assert_eq!(state(&mut filter), AttachState::Attached);
            ip("link del gwk6");
            assert_eq!(state(&mut filter), AttachState::Detached, "gone");
            ip("link add gwk6 type veth peer name gwk7");
            assert_eq!(state(&mut filter), AttachState::Detached, "made anew");
        }
        // No other process holds copies here, so the links end with ours.
        let mut filter = load(&on("gwk6", Mode::Auto));
        assert_eq!(state(&mut filter), AttachState::Attached);
        filter.release_links();
        assert_eq!(state(&mut filter), AttachState::Detached, "let go");
        let other = load(&on("gwk6", Mode::Auto));
        assert_eq!(state(&mut filter), AttachState::Detached, "another program");
        assert_eq!(other.attached()[0].1, AttachState::Attached);
        // What remains works.
        expect(&filter, &FrameSpec::default().build(), R::Passed, "a run");
    });
}

/// To nobody, for good, for the calling thread only: the raw calls, because libc's change all threads.
fn drop_privileges_of_this_thread() {
    const NOBODY: libc::c_long = 65534;
    // SAFETY: plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(done, 0);
    // SAFETY: plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
}
