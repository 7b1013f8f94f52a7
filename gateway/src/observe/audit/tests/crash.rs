//! What a crash leaves behind the head, and what somebody may want to pass off as that.

use super::*;
use crate::observe::audit::resume::check_end;

fn head(bench: &Bench) -> seal::Head {
    let bytes = fs::read(beside(&bench.log(), ".head")).unwrap();
    seal::parse_head(&bytes, &bench.public()).unwrap()
}

fn torn_bytes(bench: &Bench) -> Vec<u64> {
    let records = bench.lines().into_iter().map(|line| {
        let record: serde_json::Value = serde_json::from_slice(&line).unwrap();
        record["torn_bytes"].as_u64()
    });
    records.flatten().collect()
}

/// Each step writes to the disk more than once, so not every place is tried; the first and the last two are.
fn every(step: usize, last: usize) -> impl Iterator<Item = usize> {
    (0..last - 1).step_by(step).chain([last - 1, last])
}

fn is_broken(bench: &Bench) -> bool {
    bench.check().unwrap().begins_after_break
}

/// A log, its head, and the bytes of the batch that follows.
fn with_a_batch_more() -> (Bench, Vec<u8>, Vec<u8>, Vec<u8>) {
    let (bench, lines) = written();
    let sealed = lines.concat();
    let head = fs::read(beside(&bench.log(), ".head")).unwrap();
    bench.open().record(&[removed("g"), removed("h")]).unwrap();
    let batch = fs::read(bench.log()).unwrap().split_off(sealed.len());
    (bench, sealed, head, batch)
}

#[test]
fn a_torn_batch_is_cut_off_and_put_on_record() {
    let (bench, sealed, head, batch) = with_a_batch_more();
    for length in every(41, batch.len()) {
        for zeros in [0, 3] {
            let mut bytes = [&sealed[..], &batch[..length]].concat();
            bytes.extend(vec![0; zeros]);
            fs::write(bench.log(), &bytes).unwrap();
            fs::write(beside(&bench.log(), ".head"), &head).unwrap();
            bench.open().record(&[removed("later")]).unwrap();
            let what = format!("torn at {length} of {}, {zeros} zeros", batch.len());
            assert!(!is_broken(&bench), "{what}");
            let kept = if length == batch.len() { length } else { 0 };
            let torn = (length - kept + zeros) as u64;
            let expected = if torn > 0 { vec![torn] } else { vec![] };
            assert_eq!(torn_bytes(&bench), expected, "{what}");
        }
    }
}

#[test]
fn what_no_crash_leaves_is_a_break() {
    let (bench, sealed, head, batch) = with_a_batch_more();
    let edited = |at: usize| {
        let mut batch = batch.clone();
        batch[at] ^= 0x01;
        batch
    };
    let lines: Vec<&[u8]> = batch.split_inclusive(|b| *b == b'\n').collect();
    let forged = {
        let mut out = Vec::new();
        let last = Some(super::seal::Link {
            seq: 10,
            hash: [7; 32],
        });
        let mut stamp = Default::default();
        seal::write_record(&mut out, &mut stamp, 7, last, "ban-removed", |_| {}, None);
        out
    };
    let mut tails = vec![
        (
            "a foreign line".to_owned(),
            b"{\"event\":\"started\"}\n".to_vec(),
        ),
        ("foreign bytes".to_owned(), b"x".to_vec()),
        ("a record that does not follow".to_owned(), forged),
        ("a record left out".to_owned(), lines[1..].concat()),
        (
            "the first record twice".to_owned(),
            [lines[0], &batch].concat(),
        ),
        (
            "a piece amid the records".to_owned(),
            [&batch[..40], b"\n", &batch].concat(),
        ),
        (
            "bytes behind zeros".to_owned(),
            [&[0; 4], &batch[..]].concat(),
        ),
    ];
    // A signed batch that was edited is no torn one, wherever the edit is: somebody would be rid of it.
    tails.extend(
        (0..batch.len() - 1)
            .step_by(29)
            .map(|at| (format!("byte {at}"), edited(at))),
    );
    for (what, tail) in tails {
        fs::write(bench.log(), [&sealed[..], &tail].concat()).unwrap();
        fs::write(beside(&bench.log(), ".head"), &head).unwrap();
        bench.open();
        assert!(is_broken(&bench), "{what}");
        let aside = beside(&bench.log(), ".broken-1700000000.0");
        assert_eq!(fs::read(&aside).unwrap(), [&sealed[..], &tail].concat());
        fs::remove_file(aside).unwrap();
    }
}

#[test]
fn nothing_the_head_seals_may_be_missing_or_changed() {
    let (bench, sealed, head, batch) = with_a_batch_more();
    let restored = || fs::write(beside(&bench.log(), ".head"), &head).unwrap();
    for length in every(151, sealed.len() - 1).skip(1) {
        fs::write(bench.log(), &sealed[..length]).unwrap();
        restored();
        bench.open();
        assert!(is_broken(&bench), "cut to {length}");
        fs::remove_file(beside(&bench.log(), ".broken-1700000000.0")).unwrap();
    }
    for at in every(151, sealed.len() - 1) {
        let mut bytes = [&sealed[..], &batch[..batch.len() / 2]].concat();
        bytes[at] ^= 0x01;
        fs::write(bench.log(), bytes).unwrap();
        restored();
        bench.open();
        assert!(is_broken(&bench), "byte {at}");
        fs::remove_file(beside(&bench.log(), ".broken-1700000000.0")).unwrap();
    }
}

#[test]
fn a_torn_beginning_of_the_next_file_is_begun_again() {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let mut chain = bench.open();
    while !beside(&bench.log(), ".1").exists() {
        chain.record(&[removed("x")]).unwrap();
    }
    drop(chain);
    let rotated = beside(&bench.log(), ".1");
    let link = verify(&rotated, &bench.public()).unwrap().last;
    let head = seal::Head {
        link,
        rotated: true,
        log_bytes: fs::metadata(&rotated).unwrap().len(),
    };
    let head = seal::write_head(head, &bench.key());
    let begun = fs::read(bench.log()).unwrap();
    for length in every(17, begun.len()) {
        fs::write(bench.log(), &begun[..length]).unwrap();
        fs::write(beside(&bench.log(), ".head"), &head).unwrap();
        bench.open().record(&[removed("y")]).unwrap();
        assert!(!is_broken(&bench), "{length}");
        verify_set(&bench.log(), &bench.public()).unwrap();
    }
    fs::write(bench.log(), "not ours\n").unwrap();
    fs::write(beside(&bench.log(), ".head"), &head).unwrap();
    bench.open();
    assert!(is_broken(&bench));
}

#[test]
fn of_a_large_log_only_the_end_is_read() {
    let (bench, lines) = written();
    let bytes = lines.concat();
    let head = head(&bench);
    let last = lines.last().unwrap().len() as u64;
    for checked in [last, last + 1, 1000, bytes.len() as u64] {
        let end = check_end(&bench.log(), &bench.public(), head, checked).unwrap();
        assert_eq!((end.last, end.good_bytes), (head.link, bytes.len() as u64));
    }
    for too_little in [0, 1, last - 1] {
        check_end(&bench.log(), &bench.public(), head, too_little).unwrap_err();
    }
    // An edit far before the end is for `audit verify` to find, one at the end is not.
    for (at, found) in [(3, false), (bytes.len() - 100, true)] {
        let mut edited = bytes.clone();
        edited[at] ^= 0x01;
        fs::write(bench.log(), edited).unwrap();
        let end = check_end(&bench.log(), &bench.public(), head, 1000);
        assert_eq!(end.is_err(), found, "byte {at}");
        assert!(bench.check().is_err());
    }
}
