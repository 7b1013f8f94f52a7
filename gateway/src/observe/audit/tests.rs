//! Every way to change a log, at every place of a small one.

use super::chain::AuditPlace;
use super::key::PublicKey;
use super::*;
use crate::observe::file::beside;
use std::fs;
use std::path::{Path, PathBuf};

mod crash;
mod files;

struct Bench {
    dir: tempfile::TempDir,
    key_file: PathBuf,
    bytes_max: u64,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("audit.key");
        ensure_key(&key_file).unwrap();
        Bench {
            dir,
            key_file,
            bytes_max: 1 << 20,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn key(&self) -> AuditKey {
        AuditKey::load(&self.key_file).unwrap()
    }

    fn public(&self) -> PublicKey {
        self.key().public()
    }

    fn place(&self) -> AuditPlace {
        AuditPlace {
            path: self.log(),
            bytes_max: self.bytes_max,
            keep: 100,
        }
    }

    fn open(&self) -> chain::Chain {
        Chain::open(self.place(), self.key(), Now::at(0, 1_700_000_000)).unwrap()
    }

    fn check(&self) -> Result<VerifySummary, VerifyFailure> {
        verify(&self.log(), &self.public())
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.log()).unwrap();
        bytes
            .split_inclusive(|b| *b == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// The log with these lines instead must fail.
    fn must_fail(&self, lines: &[Vec<u8>], what: &str) -> VerifyFailure {
        fs::write(self.log(), lines.concat()).unwrap();
        self.check().expect_err(what)
    }
}

fn removed(target: &str) -> (Now, AuditEvent) {
    let event = AuditEvent::BanRemoved {
        target: target.into(),
        by: "admin".into(),
    };
    (Now::at(0, 1_700_000_001), event)
}

/// Opener and checkpoint, then three batches.
fn written() -> (Bench, Vec<Vec<u8>>) {
    let bench = Bench::new();
    let mut chain = bench.open();
    chain.record(&[removed("a"), removed("b")]).unwrap();
    chain.record(&[removed("c")]).unwrap();
    chain
        .record(&[removed("d"), removed("e"), removed("f")])
        .unwrap();
    let lines = bench.lines();
    assert_eq!(lines.len(), 11);
    (bench, lines)
}

#[test]
fn an_untouched_log_verifies() {
    let (bench, _) = written();
    let summary = bench.check().unwrap();
    assert_eq!(
        (summary.records, summary.first_seq, summary.last_seq),
        (11, 0, 10)
    );
    assert!(summary.sealed_by_head && !summary.ends_rotated && !summary.begins_after_break);
}

#[test]
fn another_key_does_not_verify() {
    let (bench, _) = written();
    assert!(verify(&bench.log(), &Bench::new().public()).is_err());
}

#[test]
fn every_edited_byte_is_found() {
    let (bench, lines) = written();
    let bytes = lines.concat();
    for at in 0..bytes.len() {
        let mut edited = bytes.clone();
        edited[at] ^= 0x01;
        fs::write(bench.log(), edited).unwrap();
        let found = bench.check().expect_err(&format!("byte {at}"));
        let line = bytes[..at].iter().filter(|b| **b == b'\n').count() as u64 + 1;
        // A changed line feed joins two lines, whose first then is wrong.
        assert_eq!(found.line, line, "byte {at}: {found}");
    }
}

#[test]
fn an_edit_with_the_hash_made_to_fit_is_found() {
    let (bench, lines) = written();
    for at in 0..lines.len() {
        let mut forged = lines.clone();
        // Rewrites the chain from here on, as somebody without the key can.
        let mut last = (at > 0).then(|| {
            seal::parse_record(forged[at - 1].trim_ascii_end(), None)
                .unwrap()
                .link
        });
        for line in forged.iter_mut().skip(at) {
            let mut out = Vec::new();
            let text = String::from_utf8(line.clone()).unwrap();
            let event = if text.contains("checkpoint") {
                "checkpoint"
            } else {
                "ban-removed"
            };
            let link = seal::write_record(
                &mut out,
                &mut Default::default(),
                7,
                last,
                event,
                |r| r.text("target", "x", 9),
                None,
            );
            (*line, last) = (out, Some(link));
        }
        bench.must_fail(&forged, &format!("rechained from {at}"));
    }
}

#[test]
fn every_removed_record_is_found() {
    let (bench, lines) = written();
    for from in 0..lines.len() {
        for to in from + 1..=lines.len() {
            let mut less = lines.clone();
            less.drain(from..to);
            bench.must_fail(&less, &format!("removed {from}..{to}"));
        }
    }
}

#[test]
fn every_swap_and_copy_is_found() {
    let (bench, lines) = written();
    for a in 0..lines.len() {
        for b in 0..lines.len() {
            if a != b {
                let mut swapped = lines.clone();
                swapped.swap(a, b);
                bench.must_fail(&swapped, &format!("swapped {a} and {b}"));
            }
            let mut copied = lines.clone();
            copied.insert(b, lines[a].clone());
            bench.must_fail(&copied, &format!("{a} copied to {b}"));
        }
        let mut appended = lines.clone();
        appended.push(lines[a].clone());
        bench.must_fail(&appended, &format!("{a} appended"));
    }
}

#[test]
fn every_forged_record_is_found() {
    let (bench, lines) = written();
    for at in 0..=lines.len() {
        let last = (at > 0).then(|| {
            seal::parse_record(lines[at - 1].trim_ascii_end(), None)
                .unwrap()
                .link
        });
        let mut forged = Vec::new();
        seal::write_record(
            &mut forged,
            &mut Default::default(),
            7,
            last,
            "ban-removed",
            |_| {},
            None,
        );
        let mut more = lines.clone();
        more.insert(at, forged);
        bench.must_fail(&more, &format!("inserted at {at}"));
    }
}

#[test]
fn every_cut_is_found_even_at_an_older_checkpoint() {
    let (bench, lines) = written();
    let bytes = lines.concat();
    for length in 0..bytes.len() {
        fs::write(bench.log(), &bytes[..length]).unwrap();
        assert!(bench.check().is_err(), "cut to {length}");
    }
}

#[test]
fn a_head_that_is_gone_or_edited_is_found() {
    let (bench, _) = written();
    let head = beside(&bench.log(), ".head");
    let good = fs::read(&head).unwrap();
    for at in 0..good.len() {
        let mut edited = good.clone();
        edited[at] ^= 0x01;
        fs::write(&head, edited).unwrap();
        assert!(bench.check().is_err(), "byte {at}");
    }
    fs::remove_file(&head).unwrap();
    assert!(bench.check().is_err());
}

#[test]
fn a_crash_between_log_and_head_is_no_failure() {
    let (bench, _) = written();
    let head = beside(&bench.log(), ".head");
    let older = fs::read(&head).unwrap();
    bench.open().record(&[removed("g")]).unwrap();
    fs::write(&head, older).unwrap();
    assert_eq!(bench.check().unwrap().last_seq, 12);
    bench.open().record(&[removed("h")]).unwrap();
    assert_eq!(bench.check().unwrap().last_seq, 14);
}

#[test]
fn the_chain_goes_on_after_a_restart() {
    let (bench, _) = written();
    bench.open().stop(Now::at(0, 1_700_000_002)).unwrap();
    let mut chain = bench.open();
    chain.record(&[removed("later")]).unwrap();
    let summary = bench.check().unwrap();
    assert_eq!((summary.records, summary.first_seq), (14, 0));
}

#[test]
fn a_changed_log_is_moved_aside_and_the_break_recorded() {
    for (what, change) in [
        (
            "cut",
            (|p| fs::write(p, &fs::read(p).unwrap()[..500]).unwrap()) as fn(&Path),
        ),
        ("gone", |p| fs::remove_file(p).unwrap()),
        ("headless", |p| fs::remove_file(beside(p, ".head")).unwrap()),
    ] {
        let (bench, _) = written();
        change(&bench.log());
        bench.open().record(&[removed("after")]).unwrap();
        let summary = bench.check().unwrap();
        assert!(summary.begins_after_break, "{what}");
        let first = String::from_utf8(bench.lines()[0].clone()).unwrap();
        assert!(
            first.contains("\"event\":\"chain-broken\""),
            "{what}: {first}"
        );
        let aside = bench.dir.path().join("audit.jsonl.broken-1700000000.0");
        assert_eq!(aside.exists(), what != "gone", "{what}");
    }
}

#[test]
fn rotated_files_verify_alone_and_hand_the_chain_over() {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let mut chain = bench.open();
    for n in 0..30 {
        chain.record(&[removed(&n.to_string())]).unwrap();
    }
    let live = bench.check().unwrap();
    assert!(live.sealed_by_head && live.first_seq > 0);
    let mut expected = live.first_seq;
    let mut files = 0;
    for n in 1.. {
        let path = beside(&bench.log(), &format!(".{n}"));
        if !path.exists() {
            break;
        }
        let old = verify(&path, &bench.public()).unwrap();
        assert!(old.ends_rotated && !old.sealed_by_head);
        assert_eq!(old.last_seq + 1, expected);
        expected = old.first_seq;
        files += 1;
        // A rotated file has no head; its own seal proves its tail.
        let bytes = fs::read(&path).unwrap();
        let cut = bytes.len()
            - 1
            - bytes[..bytes.len() - 1]
                .iter()
                .rev()
                .position(|b| *b == b'\n')
                .unwrap();
        fs::write(&path, &bytes[..cut]).unwrap();
        assert!(verify(&path, &bench.public()).is_err());
    }
    assert_eq!(expected, 0);
    assert!(files > 3);
}

#[test]
fn a_crash_inside_a_rotation_is_survived() {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let mut chain = bench.open();
    while !beside(&bench.log(), ".1").exists() {
        chain.record(&[removed("x")]).unwrap();
    }
    drop(chain);
    // As it stood after the old file was sealed: head "rotated", the new file not begun.
    let rotated = beside(&bench.log(), ".1");
    let bytes = fs::read(&rotated).unwrap();
    let last = bytes
        .trim_ascii_end()
        .rsplit(|b| *b == b'\n')
        .next()
        .unwrap();
    let link = seal::parse_record(last, None).unwrap().link;
    let head = seal::write_head(
        seal::Head {
            link,
            rotated: true,
            log_bytes: bytes.len() as u64,
        },
        &bench.key(),
    );
    for new_exists in [false, true] {
        fs::write(beside(&bench.log(), ".head"), &head).unwrap();
        if new_exists {
            assert_eq!(bench.check().unwrap().first_seq, link.seq + 1); // continued, its head not yet written
        } else {
            fs::remove_file(bench.log()).unwrap();
        }
        bench.open().record(&[removed("y")]).unwrap();
        let summary = bench.check().unwrap();
        assert!(!summary.begins_after_break, "{new_exists}");
        assert_eq!(summary.first_seq, link.seq + 1);
    }
    // And before the old file was renamed.
    fs::rename(&rotated, bench.log()).unwrap();
    fs::write(beside(&bench.log(), ".head"), &head).unwrap();
    bench.open();
    assert!(verify(&rotated, &bench.public()).unwrap().ends_rotated);
    assert_eq!(bench.check().unwrap().first_seq, link.seq + 1);
}

#[test]
fn a_log_taken_away_while_open_is_noticed() {
    let (bench, _) = written();
    let mut chain = bench.open();
    let moved = bench.dir.path().join("moved");
    fs::rename(bench.log(), &moved).unwrap();
    chain.record(&[removed("x")]).unwrap();
    assert!(verify(&moved, &bench.public()).unwrap().ends_rotated);
    assert!(!bench.check().unwrap().begins_after_break);
    fs::remove_file(bench.log()).unwrap();
    chain.record(&[removed("y")]).unwrap();
    assert!(bench.check().unwrap().begins_after_break);
}

#[test]
fn a_flood_shares_signatures_and_drops_are_recorded() {
    let bench = Bench {
        bytes_max: 1 << 30,
        ..Bench::new()
    };
    let log = AuditLog::start(bench.place(), bench.key(), 10).unwrap();
    let sink = log.sink();
    let total = 3 * QUEUE_EVENTS as u64;
    for n in 0..total {
        sink.emit(AuditEvent::Refusal {
            id: crate::pipeline::exchange::RequestId(u128::from(n)),
            client: [192, 0, 2, 1].into(),
            route: None,
            rule: "r\n\u{2028}\"".into(),
            slug: "rate-limited",
        });
    }
    let dropped = sink.dropped();
    log.stop();
    bench.check().unwrap();
    let text = fs::read_to_string(bench.log()).unwrap();
    let count = |event: &str| text.matches(&format!("\"event\":\"{event}\"")).count() as u64;
    let sum = |event: &str| -> u64 {
        text.lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
            .filter(|v| v["event"] == event)
            .map(|v| v["count"].as_u64().unwrap())
            .sum()
    };
    let single = count("refusal");
    assert_eq!(single + sum("refusals-suppressed") + dropped, total);
    assert!((10..total / 100).contains(&single), "{single}");
    assert_eq!(count("stopped"), 1);
    assert_eq!(sum("events-dropped"), dropped);
    assert!(
        count("checkpoint") < total / 100,
        "{} signatures",
        count("checkpoint")
    );
}

#[test]
fn the_key_is_private_and_made_once() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let before = fs::read(&bench.key_file).unwrap();
    ensure_key(&bench.key_file).unwrap();
    assert_eq!(fs::read(&bench.key_file).unwrap(), before);
    assert_eq!(
        fs::metadata(&bench.key_file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let public_file = bench.dir.path().join("audit.pub");
    ensure_public(&public_file, &bench.key()).unwrap();
    assert_eq!(PublicKey::load(&public_file).unwrap(), bench.public());
    fs::write(&bench.key_file, "not a key").unwrap();
    assert!(ensure_key(&bench.key_file).is_err());
}

#[test]
fn a_log_that_cannot_be_rotated_goes_on_and_rotates_later() {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let place = AuditPlace {
        keep: 1,
        ..bench.place()
    };
    let mut chain = Chain::open(place, bench.key(), Now::at(0, 1_700_000_000)).unwrap();
    // A folder stands where the rotated log should go.
    let blocked = beside(&bench.log(), ".1");
    fs::create_dir(&blocked).unwrap();
    for _ in 0..20 {
        chain.record(&[removed("x")]).unwrap();
    }
    let stuck = bench.check().unwrap();
    assert!(!stuck.ends_rotated && stuck.first_seq == 0);
    assert_eq!(stuck.records, 2 + 20 * 2);
    fs::remove_dir(&blocked).unwrap();
    for n in 0.. {
        chain.record(&[removed("y")]).unwrap();
        if blocked.exists() {
            break;
        }
        assert!(n < 20, "it is not tried again");
    }
    assert!(verify(&blocked, &bench.public()).unwrap().ends_rotated);
    verify_set(&bench.log(), &bench.public()).unwrap();
}

#[test]
fn a_head_that_cannot_be_written_costs_no_records() {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let mut chain = bench.open();
    chain.record(&[removed("x")]).unwrap();
    // A folder stands where the new head is prepared.
    let blocked = beside(&bench.log(), ".head.new");
    fs::create_dir(&blocked).unwrap();
    for _ in 0..20 {
        chain.record(&[removed("x")]).unwrap();
    }
    assert!(!beside(&bench.log(), ".1").exists()); // no hand-over that a crash would leave in doubt
    assert_eq!(bench.check().unwrap().records, 2 + 21 * 2);
    fs::remove_dir(&blocked).unwrap();
    for _ in 0..20 {
        chain.record(&[removed("y")]).unwrap();
    }
    let set = verify_set(&bench.log(), &bench.public()).unwrap();
    assert!(set.files.len() > 1 && set.breaks.is_empty());
}

#[test]
fn losses_are_told_although_the_telling_failed_once() {
    let bench = Bench::new();
    let folder = bench.dir.path().join("log");
    fs::create_dir(&folder).unwrap();
    let place = AuditPlace {
        path: folder.join("audit.jsonl"),
        ..bench.place()
    };
    let shared = Arc::new(Shared::default());
    let mut recorder = Recorder {
        chain: Chain::open(place.clone(), bench.key(), Now::at(0, 1)).unwrap(),
        flood: Flood::default(),
        shared: shared.clone(),
        failing: false,
    };
    shared.drop_events(5);
    fs::remove_dir_all(&folder).unwrap();
    let suppressed = AuditEvent::RefusalsSuppressed {
        source: None,
        rule: None,
        slug: "no-route",
        count: 7,
    };
    recorder.record(&mut vec![removed("x"), (Now::at(0, 1), suppressed)]);
    fs::create_dir(&folder).unwrap();
    recorder.record(&mut vec![]);
    let text = fs::read_to_string(&place.path).unwrap();
    assert!(
        text.contains("\"event\":\"events-dropped\",\"count\":13,"),
        "{text}"
    );
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 13);
}

#[test]
fn a_foreign_file_at_the_logs_place_is_moved_aside() {
    let (bench, _) = written();
    let mut chain = bench.open();
    fs::rename(bench.log(), bench.dir.path().join("moved")).unwrap();
    fs::write(bench.log(), "planted\n").unwrap();
    chain.record(&[removed("x")]).unwrap();
    assert!(bench.check().unwrap().begins_after_break);
}

#[test]
fn refusals_leave_room_for_what_is_rare() {
    let (queue, events) = sync_channel(QUEUE_EVENTS);
    let sink = AuditSink {
        queue,
        shared: Arc::default(),
    };
    let refusal = AuditEvent::Refusal {
        id: Default::default(),
        client: [192, 0, 2, 1].into(),
        route: None,
        rule: "r".into(),
        slug: "no-route",
    };
    for _ in 0..2 * QUEUE_EVENTS {
        sink.emit(refusal.clone());
    }
    assert_eq!(sink.dropped(), 2 * QUEUE_EVENTS as u64 - QUEUE_BULK);
    sink.emit(AuditEvent::ReloadOk { by: "admin".into() });
    assert_eq!(sink.dropped(), 2 * QUEUE_EVENTS as u64 - QUEUE_BULK);
    assert_eq!(events.try_iter().count() as u64, QUEUE_BULK + 1);
}
