//! The properties that `fuzz/` searches for counterexamples to, on a bounded number of cases.
//!
//! Each law runs on its seeds in `fuzz/corpus`, on seeds with a few bytes changed, and on scripts from nothing. The
//! cases are the same in every run: the generator starts from a fixed seed. `ANYREACH_CASES` sets how many of them
//! there are for each law; more cases begin with the same ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod laws;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Declares a test for each law, with the number of cases that takes a few seconds.
macro_rules! laws {
    ($($law:ident: $cases:literal,)*) => {
        $(
            #[test]
            fn $law() {
                check(stringify!($law), laws::$law, $cases);
            }
        )*

        #[test]
        fn each_law_is_a_fuzz_target_with_seeds() {
            let laws = [$(stringify!($law)),*];
            let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
            assert_eq!(fs::read_dir(&targets).unwrap().count(), laws.len());
            for law in laws {
                assert!(targets.join(law).with_extension("rs").exists(), "{law}");
                assert!(!seeds(law).is_empty(), "{law}");
            }
        }
    };
}

laws! {
    credential_text: 4_000,
    organization_text: 8_000,
    origin_uri: 8_000,
    challenge: 3_000,
    error_json: 3_000,
    error_body_streaming: 2_000,
    file_bytes: 24,
}

fn check(name: &str, law: fn(&[u8]), cases: u32) {
    let seeds = seeds(name);
    for seed in &seeds {
        law(seed);
    }
    let cases = campaigns::number("ANYREACH_CASES", cases.into());
    let mut config = Config::with_cases(cases.try_into().unwrap());
    config.failure_persistence = None;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"tower-anyreach: one for all laws");
    TestRunner::new_with_rng(config, rng)
        .run(&scripts(seeds), |bytes| {
            law(&bytes);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn seeds(law: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let seeds = fs::read_dir(corpus.join(law)).unwrap();
    let mut paths: Vec<_> = seeds.map(|seed| seed.unwrap().path()).collect();
    paths.sort_unstable();
    let seeds = paths.into_iter().map(|path| fs::read(path).unwrap());
    seeds.collect()
}

fn scripts(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => 0x80_u8..0xfe,
        3 => prop::char::range('0', 'z').prop_map(|c| c as u8),
        2 => any::<u8>(),
        1 => Just(0),
    ];
    let edit = (any::<Index>(), 0..3_u8, byte.clone());
    let edited = (select(seeds), vec(edit, 1..5)).prop_map(|(mut bytes, edits)| {
        for (at, edit, byte) in edits {
            let at = at.index(bytes.len() + 1);
            match edit {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes
    });
    prop_oneof![edited, vec(byte, 0..96)]
}
