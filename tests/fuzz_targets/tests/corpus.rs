//! The committed corpora, replayed: what fuzzing has reached stays reached, without nightly and without libFuzzer.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::packet::{Framed, Packet, PacketType, Version, frame};
use culex_fuzz_targets::{TARGETS, what_is_built};
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A corpus stays small enough to be read, copied and replayed in a moment.
const FILES_MAX: usize = 200;
const BYTES_MAX: usize = 200 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// The names of what lies in a directory of `fuzz/`, without their extensions.
fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_input_of_every_corpus_passes() {
    let mut failed = Vec::new();
    for (target, run) in TARGETS {
        for (name, bytes) in corpus(target) {
            if catch_unwind(|| run(&bytes)).is_err() {
                failed.push(format!("fuzz/corpus/{target}/{name}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_has_a_program_and_a_corpus_of_its_name() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).into()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name twice");
    assert_eq!(names("fuzz_targets"), targets, "fuzz/fuzz_targets/ and TARGETS");
    assert_eq!(names("corpus"), targets, "fuzz/corpus/ and TARGETS");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("fuzz_targets/{target}.rs")), "fuzz/Cargo.toml: no {target}");
    }
}

#[test]
fn every_corpus_is_there_and_small() {
    for (target, _) in TARGETS {
        let inputs = corpus(target);
        let bytes: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!((1..=FILES_MAX).contains(&inputs.len()), "{target}: {} files", inputs.len());
        assert!(bytes <= BYTES_MAX, "{target}: {bytes} bytes");
    }
}

/// Every packet that a version has.
fn every_packet() -> BTreeSet<(Version, PacketType)> {
    let types = || (1..=15).filter_map(PacketType::from_bits);
    let versions = [Version::V31, Version::V311, Version::V5];
    let all = versions.into_iter().flat_map(|version| types().map(move |packet| (version, packet)));
    all.filter(|(version, packet)| *version == Version::V5 || *packet != PacketType::Auth).collect()
}

#[test]
fn the_corpora_hold_every_packet_of_every_version() {
    let built: BTreeSet<_> = corpus("round_trip").iter().map(|(_, bytes)| what_is_built(bytes)).collect();
    assert_eq!(built, every_packet(), "fuzz/corpus/round_trip");

    let mut decoded = BTreeSet::new();
    for (_, bytes) in corpus("decode") {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut rest = &bytes[..];
            while let Ok(Framed::Whole { frame, length }) = frame(rest, u32::MAX) {
                match Packet::decode(&frame, version) {
                    Ok(Packet::Connect(connect)) => decoded.extend([(connect.version, PacketType::Connect)]),
                    Ok(packet) => decoded.extend([(version, packet.packet_type())]),
                    Err(_) => {}
                }
                rest = &rest[length..];
            }
        }
    }
    assert_eq!(decoded, every_packet(), "fuzz/corpus/decode");
}
