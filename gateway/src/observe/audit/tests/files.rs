//! Whole files removed from a rotated log.

use super::*;

/// A log in several files, oldest first, the live one last.
fn rotated() -> (Bench, Vec<PathBuf>) {
    let bench = Bench {
        bytes_max: 2000,
        ..Bench::new()
    };
    let mut chain = bench.open();
    for n in 0..30 {
        chain.record(&[removed(&n.to_string())]).unwrap();
    }
    let old = (1..).map(|n| beside(&bench.log(), &format!(".{n}")));
    let mut files: Vec<_> = old.take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(bench.log());
    assert!(files.len() > 4);
    (bench, files)
}

fn check(bench: &Bench) -> Result<SetSummary, SetFailure> {
    verify_set(&bench.log(), &bench.public())
}

#[test]
fn a_whole_log_verifies_over_all_its_files() {
    let (bench, files) = rotated();
    let set = check(&bench).unwrap();
    let found: Vec<_> = set.files.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(found, files);
    assert!(!set.older_missing && set.breaks.is_empty());
    let last = set.files.last().unwrap().1.last_seq;
    assert_eq!(set.records(), last + 1);
    // Other files beside it are no part of it.
    for other in [".01", ".x", ".1.gz", ".broken-1700000000.0"] {
        fs::write(beside(&bench.log(), other), "x").unwrap();
    }
    assert_eq!(check(&bench).unwrap(), set);
}

#[test]
fn a_file_that_is_missing_between_others_is_found() {
    let (bench, files) = rotated();
    for gone in &files[1..files.len() - 1] {
        let content = fs::read(gone).unwrap();
        fs::remove_file(gone).unwrap();
        let found = check(&bench).expect_err(&format!("without {}", gone.display()));
        assert!(found.to_string().contains("were removed"), "{found}");
        fs::write(gone, content).unwrap();
    }
    check(&bench).unwrap();
}

#[test]
fn the_oldest_files_may_be_gone_and_it_is_told() {
    let (bench, files) = rotated();
    for gone in &files[..files.len() - 1] {
        fs::remove_file(gone).unwrap();
        let set = check(&bench).unwrap();
        assert!(set.older_missing);
    }
}

#[test]
fn the_newest_files_cannot_be_removed_unseen() {
    let (bench, files) = rotated();
    let head = beside(&bench.log(), ".head");
    // However many: the file before takes the live one's place, with the head or without it.
    for gone in 1..files.len() {
        let kept = &files[files.len() - 1 - gone];
        fs::rename(kept, bench.log()).unwrap();
        assert!(check(&bench).is_err(), "{gone} with the head");
        let sealed = fs::read(&head).unwrap();
        fs::remove_file(&head).unwrap();
        let found = check(&bench).expect_err("without the head");
        if gone == 1 {
            assert!(found.to_string().contains("not here"), "{found}");
        }
        // Alone it is whole: a file in an archive.
        assert!(verify(&bench.log(), &bench.public()).unwrap().ends_rotated);
        fs::write(&head, sealed).unwrap();
    }
    fs::remove_file(bench.log()).unwrap();
    assert!(check(&bench).is_err());
}

#[test]
fn files_of_another_chain_do_not_join() {
    let (bench, files) = rotated();
    let (mut other, _) = rotated();
    // Signed by the same key even: a log that began anew.
    fs::copy(&bench.key_file, &other.key_file).unwrap();
    fs::remove_dir_all(other.dir.path().join("new")).ok();
    other.bytes_max = 2000;
    for file in &files {
        let name = file.file_name().unwrap();
        fs::remove_file(other.dir.path().join(name)).unwrap();
    }
    fs::remove_file(beside(&other.log(), ".head")).unwrap();
    let mut chain = other.open();
    for n in 0..30 {
        chain.record(&[removed(&format!("{n}!"))]).unwrap();
    }
    let swapped = &files[2];
    fs::copy(other.dir.path().join(swapped.file_name().unwrap()), swapped).unwrap();
    verify(swapped, &bench.public()).unwrap();
    check(&bench).unwrap_err();
}

#[test]
fn a_log_between_two_files_is_whole() {
    let (bench, files) = rotated();
    // As after a crash in a rotation: the newest file is sealed, the next one is not begun.
    let newest = &files[files.len() - 2];
    let bytes = fs::read(newest).unwrap();
    let link = verify(newest, &bench.public()).unwrap().last;
    let head = seal::Head {
        link,
        rotated: true,
        log_bytes: bytes.len() as u64,
    };
    fs::write(
        beside(&bench.log(), ".head"),
        seal::write_head(head, &bench.key()),
    )
    .unwrap();
    check(&bench).unwrap(); // begun, but its head not written
    fs::remove_file(bench.log()).unwrap();
    check(&bench).unwrap();
    fs::rename(newest, bench.log()).unwrap();
    check(&bench).unwrap(); // not moved yet
}

#[test]
fn a_recorded_break_is_told_and_joins_nothing() {
    let (bench, files) = rotated();
    fs::remove_file(bench.log()).unwrap();
    bench.open().record(&[removed("after")]).unwrap();
    let set = check(&bench).unwrap();
    assert_eq!(set.breaks.len(), 1);
    assert_eq!(set.breaks[0].0, bench.log());
    assert!(set.breaks[0].1 > 0);
    assert_eq!(set.files.len(), files.len());
}
