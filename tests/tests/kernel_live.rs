//! The kernel filter on live traffic: namespaces and veth, XDP attached by the gateway's own config, one client that
//! behaves and one that does not. What is dropped is counted, and the one that behaves never notices.

use gateway_tests::client::{Client, get};
use gateway_tests::config::Config;
use gateway_tests::curl::Curl;
use gateway_tests::gateway::Gateway;
use gateway_tests::netns::{CLIENT, CLIENT_V6, GATEWAY, GATEWAY_V6, Net};
use gateway_tests::skip::skip_without_root;
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::{until, within};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;
/// A port of the same machine that the gateway does not serve, so the filter does not judge.
const OTHER: u16 = 9999;
/// Of the filter, in packets.
const RATE: u64 = 500;
const BURST: u64 = 500;
/// A dropped SYN is never answered: longer than any answer over veth takes, shorter than the next try.
const NO_ANSWER: Duration = Duration::from_millis(800);
/// Index of the client that behaves, and of the one that does not.
const GOOD: usize = 0;
const BAD: usize = 1;

/// Fields are dropped in this order: processes first, then the namespaces they live in.
struct Site {
    gateway: Gateway,
    _upstream: Upstream,
    _other: TcpListener,
    net: Net,
}

impl Site {
    /// `None`: skipped. `filter` and `strikes` are lines of these sections.
    fn start(filter: &str, strikes: &str) -> Option<Site> {
        if skip_without_root("root, for namespaces and XDP") {
            return None;
        }
        let net = Net::new();
        let (upstream, other) = net.within(&net.gateway(), || {
            let other = TcpListener::bind(("0.0.0.0", OTHER)).expect("bind");
            (Upstream::ok("reached"), other)
        });
        let mut config = Config {
            http: SocketAddr::from(([0, 0, 0, 0], HTTP)),
            https: SocketAddr::from(([0, 0, 0, 0], HTTPS)),
            ..Config::default()
        };
        config = config
            .section(&format!(
                "[[listeners]]\nname = \"v6\"\naddress = \"[::]:{HTTPS}\"\n"
            ))
            .upstream("up", &[upstream.address])
            .section("[[policies]]\nname = \"keys\"\ntype = \"api_key\"\n")
            .section("[[routes]]\nname = \"in\"\npath = \"/in\"\nupstream = \"up\"\npolicies = [\"keys\"]\n")
            .section("[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\n");
        config.strikes = strikes.into();
        config.filter = filter_section(&net, filter);
        let gateway = Gateway::start_with(config, &[], Some(&net.gateway()));
        Some(Site {
            gateway,
            _upstream: upstream,
            _other: other,
            net,
        })
    }

    fn curl(&self, client: usize) -> Curl {
        Curl {
            ca: self.gateway.path("ca.pem"),
            https: SocketAddr::from((GATEWAY[client], HTTPS)),
            namespace: Some(self.net.client(client)),
            max_seconds: 5.0,
        }
    }

    /// One HTTPS request by curl, which must succeed.
    fn works(&self, client: usize) {
        let response = self.curl(client).get("/ok", &[]);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "reached")
        );
    }

    fn connect(&self, client: usize, port: u16) -> io::Result<TcpStream> {
        let to = SocketAddr::from((GATEWAY[client], port));
        let namespace = self.net.client(client);
        self.net
            .within(&namespace, || TcpStream::connect_timeout(&to, NO_ANSWER))
    }

    fn is_dropped(&self, client: usize, port: u16) -> bool {
        matches!(self.connect(client, port), Err(e) if e.kind() == io::ErrorKind::TimedOut)
    }

    fn assert_dropped(&self, client: usize) {
        for port in [HTTP, HTTPS] {
            let connected = self.connect(client, port);
            let timed_out = matches!(&connected, Err(e) if e.kind() == io::ErrorKind::TimedOut);
            assert!(timed_out, "port {port}: {connected:?}");
        }
    }

    /// Datagrams to a port, as fast as they go. They need no listener: the filter comes first.
    fn send_datagrams(&self, client: usize, port: u16, count: u64) {
        let to = SocketAddr::from((GATEWAY[client], port));
        self.net.within(&self.net.client(client), || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            for _ in 0..count {
                // ICMP's "nobody listens" comes back as an error of a later send.
                let _ = socket.send_to(b"flood", to);
            }
        });
    }

    /// Returns when its successor answers.
    fn kill_worker(&self) {
        let first = self.gateway.worker_pid();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(first as i32),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("kill");
        until("another worker", || {
            let output = self.gateway.cli(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["pid"].as_u64()? != u64::from(first)).then_some(())
        });
    }

    fn packets(&self, verdict: &str) -> u64 {
        let series = format!("gateway_filter_packets_total{{verdict=\"{verdict}\"}}");
        self.gateway.metric(&series) as u64
    }

    /// How many wrong credentials are answered before the source is dropped.
    fn fail_logins(&self, client: usize, most: usize) -> usize {
        let to = SocketAddr::from((GATEWAY[client], HTTP));
        let ask = "GET /in HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: gwk_wrong_wrong\r\nConnection: close\r\n\r\n";
        self.net.within(&self.net.client(client), || {
            (0..most)
                .take_while(|_| {
                    let answered = TcpStream::connect_timeout(&to, NO_ANSWER)
                        .and_then(|_| Client::try_connect(to))
                        .and_then(|mut c| c.try_send(ask).and_then(|()| c.try_response("GET")));
                    answered.is_ok_and(|r| r.status == 401)
                })
                .count()
        })
    }
}

fn filter_section(net: &Net, lines: &str) -> String {
    format!(
        "interfaces = [{{ name = \"{}\" }}, {{ name = \"{}\" }}]\nsources = 65536\nlist_entries = 1024\nsample_every = 16\n{lines}",
        net.interface(GOOD),
        net.interface(BAD)
    )
}

fn limits() -> String {
    format!("rate = \"{RATE}/s\"\nburst = {BURST}")
}

#[test]
fn a_blocked_source_is_dropped_counted_and_nobody_else_notices() {
    let block = format!("block = [\"{}\"]", CLIENT[BAD]);
    let Some(mut site) = Site::start(&block, "enabled = false") else {
        return;
    };
    for i in [GOOD, BAD] {
        let mode = format!(
            "gateway_filter_mode{{interface=\"{}\",mode=\"native\"}}",
            site.net.interface(i)
        );
        assert_eq!(
            site.gateway.metric(&mode),
            1.0,
            "{}",
            site.gateway.metrics_text()
        );
    }
    site.works(GOOD);
    site.assert_dropped(BAD);
    let before = site.packets("blocked-address");
    assert!(before >= 2, "two SYNs at least, {before} counted");
    const SENT: u64 = 1000;
    site.send_datagrams(BAD, HTTPS, SENT);
    let counted = until("the blocked datagrams in the counter", || {
        let counted = site.packets("blocked-address") - before;
        (counted >= SENT).then_some(counted)
    });
    // What is more are late SYNs of the connects above.
    assert!(counted <= SENT + 10, "{counted} counted, {SENT} sent");
    site.works(GOOD);

    // Ports that the gateway does not serve are nobody's business.
    let not_judged = site.packets("not-judged");
    site.connect(BAD, OTHER)
        .expect("another port of the machine");
    assert!(site.packets("not-judged") > not_judged);
    // Dropped packets reach the audit log, sampled.
    let event = site
        .gateway
        .audit_where("a sampled drop", |e| e["event"] == "kernel-drop");
    assert!(
        event.to_string().contains(&CLIENT[BAD].to_string()),
        "{event}"
    );
    assert_eq!(site.gateway.status()["filter"][0]["mode"], "native");

    // The filter goes with the gateway.
    assert_eq!(site.gateway.stop().code(), Some(0));
    assert!(!site.is_dropped(BAD, HTTP), "the filter was left behind");
}

#[test]
fn a_ban_by_hand_drops_until_it_is_lifted_or_over() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    site.works(BAD);
    let target = CLIENT[BAD].to_string();
    site.gateway.cli_ok(&[
        "bans",
        "add",
        &target,
        "--ttl",
        "1h",
        "--reason",
        "by the test",
    ]);
    site.assert_dropped(BAD);
    let curl = site.curl(BAD).run("/ok", &["--connect-timeout", "1"]);
    assert_eq!(curl.exit, 28, "{curl:?}");
    site.works(GOOD);
    let bans = site.gateway.bans();
    assert_eq!(
        (bans.len(), &bans[0]["target"]),
        (1, &format!("{target}/32").into())
    );
    assert_eq!(
        (&bans[0]["origin"], &bans[0]["reason"]),
        (&"manual".into(), &"by the test".into())
    );
    site.gateway.cli_ok(&["bans", "remove", &target]);
    site.works(BAD);
    assert!(
        !site
            .gateway
            .cli(&["bans", "remove", &target])
            .status
            .success()
    );

    let begun = Instant::now();
    site.gateway
        .cli_ok(&["bans", "add", "10.77.2.0/24", "--ttl", "2s"]);
    assert!(site.is_dropped(BAD, HTTPS));
    until("the end of the ban", || site.connect(BAD, HTTPS).ok());
    let lasted = begun.elapsed();
    assert!(
        lasted >= Duration::from_millis(1900) && lasted < Duration::from_secs(6),
        "{lasted:?}"
    );
    site.works(BAD);
    site.gateway
        .audit_where("the ban's end", |e| e["event"] == "ban-expired");
}

#[test]
fn ipv6_is_judged_as_ipv4_is() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let connect = |client: usize| {
        let to = SocketAddr::from((IpAddr::V6(GATEWAY_V6[client]), HTTPS));
        let namespace = site.net.client(client);
        site.net
            .within(&namespace, || TcpStream::connect_timeout(&to, NO_ANSWER))
    };
    until("IPv6 to work", || connect(BAD).ok());
    site.gateway
        .cli_ok(&["bans", "add", &CLIENT_V6[BAD].to_string(), "--ttl", "1h"]);
    let dropped = connect(BAD);
    assert!(
        matches!(&dropped, Err(e) if e.kind() == io::ErrorKind::TimedOut),
        "{dropped:?}"
    );
    connect(GOOD).expect("the other one");
    site.works(BAD); // by IPv4
    site.gateway
        .cli_ok(&["bans", "remove", &CLIENT_V6[BAD].to_string()]);
    connect(BAD).expect("after the ban");
}

#[test]
fn a_flood_is_limited_while_everybody_else_is_served() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    const SENT: u64 = 20_000;
    let passed_before = site.packets("passed");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| site.send_datagrams(BAD, HTTPS, SENT));
        let mut served = 0;
        while !flood.is_finished() || served < 10 {
            site.works(GOOD);
            served += 1;
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let limited = site.packets("rate-limited");
    let allowance = BURST + (took * RATE as f64) as u64;
    assert!(limited <= SENT, "{limited} limited of {SENT}");
    assert!(
        limited + allowance + 500 >= SENT,
        "{limited} limited of {SENT}, {allowance} allowed"
    );
    let passed = site.packets("passed") - passed_before;
    assert!(passed >= BURST, "{passed} passed");
    assert_eq!(site.packets("blocked-address"), 0);
    // It is over, and forgiven.
    until("the flooder's credit", || site.connect(BAD, HTTPS).ok());
    site.works(BAD);
}

#[test]
fn a_syn_flood_is_limited_too() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let to = SocketAddr::from((GATEWAY[BAD], HTTPS));
    let begun = Instant::now();
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            site.net
                .within(&site.net.client(BAD), || syn_flood(to, 4000))
        });
        while !flood.is_finished() {
            site.works(GOOD);
        }
        flood.join().expect("the flood")
    });
    let limited = site.packets("rate-limited");
    let allowance = BURST + (begun.elapsed().as_secs_f64() * RATE as f64) as u64;
    assert!(
        limited > 0 && limited + allowance + 500 >= sent,
        "{limited} of {sent} SYNs limited"
    );
    for _ in 0..5 {
        site.works(GOOD);
    }
    assert_eq!(
        site.gateway.bans().len(),
        0,
        "a source was banned that has proven nothing"
    );
}

/// Connects that are not waited for; each is one SYN, taken back at once. How many were sent.
fn syn_flood(to: SocketAddr, count: u64) -> u64 {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(to) = to else { return 0 };
    let mut sent = 0;
    for _ in 0..count {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let Ok(fd) = socket(AddressFamily::Inet, SockType::Stream, flags, None) else {
            continue;
        };
        // EINPROGRESS: the SYN is out.
        sent += u64::from(
            connect(fd.as_raw_fd(), &SockaddrIn::from(to)) == Err(nix::errno::Errno::EINPROGRESS),
        );
    }
    sent
}

#[test]
fn failed_logins_lead_to_a_ban_in_the_kernel_that_ends() {
    let strikes = "threshold = 40\nban_ttl = \"4s\"";
    let Some(site) = Site::start(&limits(), strikes) else {
        return;
    };
    site.works(BAD);
    let answered = site.fail_logins(BAD, 20);
    assert!(
        (3..=6).contains(&answered),
        "{answered} wrong logins were answered"
    );
    let begun = Instant::now();
    let bans = site.gateway.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(bans[0]["target"], format!("{}/32", CLIENT[BAD]));
    assert_eq!(bans[0]["origin"], "authentication");
    // In the kernel, not only at accept: nothing answers at all, and it is counted.
    let before = site.packets("blocked-address");
    site.assert_dropped(BAD);
    assert!(site.packets("blocked-address") > before);
    site.works(GOOD);
    site.gateway.audit_where("the ban", |e| {
        e["event"] == "ban-added" && e["by"] == "strikes"
    });

    until("the end of the ban", || site.connect(BAD, HTTPS).ok());
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    site.works(BAD);
    until("an empty list", || {
        site.gateway.bans().is_empty().then_some(())
    });
}

#[test]
fn a_trusted_source_is_never_banned() {
    let strikes = format!("threshold = 30\ntrusted = [\"{}\"]", CLIENT[BAD]);
    let Some(site) = Site::start(&limits(), &strikes) else {
        return;
    };
    assert_eq!(site.fail_logins(BAD, 12), 12);
    assert!(site.gateway.bans().is_empty());
    for target in [
        CLIENT[BAD].to_string(),
        "10.77.2.0/24".into(),
        "10.0.0.0/8".into(),
    ] {
        let refused = site.gateway.cli(&["bans", "add", &target]);
        assert!(!refused.status.success(), "{target} was banned");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("trusted"),
            "{refused:?}"
        );
    }
    site.works(BAD);
}

#[test]
fn a_reload_changes_the_lists_and_a_dead_worker_leaves_the_filter() {
    let Some(mut site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let open = site.gateway.config.clone();
    let mut shut = open.clone();
    shut.filter
        .push_str(&format!("\nblock = [\"{}\"]", CLIENT[BAD]));
    site.gateway.rewrite(shut);
    site.works(BAD);
    site.gateway.cli_ok(&["reload"]);
    site.assert_dropped(BAD);

    site.kill_worker();
    site.works(GOOD);
    site.assert_dropped(BAD);

    site.gateway.rewrite(open);
    site.gateway.cli_ok(&["reload"]);
    site.works(BAD);
    assert!(site.packets("blocked-address") > 0);
}

#[test]
fn bans_outlive_the_worker_that_set_them() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let target = CLIENT[BAD].to_string();
    site.works(BAD);
    site.gateway
        .cli_ok(&["bans", "add", &target, "--ttl", "1h"]);
    site.gateway
        .cli_ok(&["bans", "add", "198.51.100.0/24", "--ttl", "1h"]);
    site.assert_dropped(BAD);

    site.kill_worker();
    site.works(GOOD);
    site.assert_dropped(BAD);
    let bans = site.gateway.bans();
    assert_eq!(bans.len(), 2, "{bans:?}");
    let restored = bans
        .iter()
        .find(|ban| ban["target"] == format!("{target}/32"));
    let restored = restored.expect("the ban");
    assert_eq!(restored["origin"], "manual");
    assert_eq!(restored["reason"], "restored after a restart");
    let remaining = restored["remaining_secs"].as_u64().expect("a number");
    assert!((3500..=3600).contains(&remaining), "{restored}");

    site.gateway.cli_ok(&["bans", "remove", &target]);
    site.works(BAD);
    assert_eq!(site.gateway.bans().len(), 1);
}

#[test]
fn only_the_warden_holds_what_could_detach_the_filter() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let links = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("readable as root");
        let infos = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        infos.filter(|info| info.contains("link_type")).count()
    };
    assert_eq!(links(site.gateway.warden_pid()), 2);
    assert_eq!(links(site.gateway.worker_pid()), 0);
    // And it is attached for all that.
    site.gateway
        .cli_ok(&["bans", "add", &CLIENT[BAD].to_string(), "--ttl", "1h"]);
    site.assert_dropped(BAD);
}

#[test]
fn an_interface_that_goes_takes_the_filter_along_and_says_so() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let name = site.net.interface(BAD);
    let arguments = ["-n", &site.net.gateway(), "link", "del", &name];
    let done = std::process::Command::new("ip").args(arguments).status();
    assert!(done.expect("iproute2 is installed").success());
    let mode = |i: usize, mode: &str| {
        let interface = site.net.interface(i);
        format!("gateway_filter_mode{{interface=\"{interface}\",mode=\"{mode}\"}} 1")
    };
    let detached = mode(BAD, "detached");
    until("the metric", || {
        site.gateway
            .metrics_text()
            .contains(&detached)
            .then_some(())
    });
    assert!(site.gateway.metrics_text().contains(&mode(GOOD, "native")));
    let status = site.gateway.status();
    assert_eq!(status["filter"][1]["mode"], "detached", "{status}");
    // Every later look finds the same; one line says it.
    let again = within(Duration::from_millis(2500), || {
        (site
            .gateway
            .stderr()
            .matches("KERNEL FILTER DETACHED")
            .count()
            > 1)
        .then_some(())
    });
    assert!(again.is_none());
    let said = site.gateway.stderr();
    assert_eq!(said.matches("KERNEL FILTER DETACHED").count(), 1, "{said}");
    site.works(GOOD);
}

#[test]
fn a_kept_connection_ends_with_the_ban() {
    let Some(site) = Site::start(&limits(), "enabled = false") else {
        return;
    };
    let to = SocketAddr::from((GATEWAY[BAD], HTTP));
    site.net.within(&site.net.client(BAD), || {
        let mut client = Client::connect(to);
        assert_eq!(client.ask(get("/before")).status, 200);
        client
            .socket()
            .set_read_timeout(Some(NO_ANSWER))
            .expect("a timeout");
        site.gateway
            .cli_ok(&["bans", "add", &CLIENT[BAD].to_string(), "--ttl", "1m"]);
        let answer = client
            .try_send(get("/after"))
            .and_then(|()| client.try_response("GET"));
        assert!(answer.is_err(), "{answer:?}");
    });
    let answered = within(Duration::from_millis(300), || {
        site.gateway
            .records()
            .iter()
            .any(|r| r["path"] == "/after" && r["status"] == 200)
            .then_some(())
    });
    assert!(answered.is_none());
}
