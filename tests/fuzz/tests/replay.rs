//! Every entry of the corpus through its target, then as many seeded mutations of entries as are worth a few seconds.
//!
//! One test: the targets share the counting of memory. A failing input is printed as a line for the corpus.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuzz::{
    TARGETS, Target, corpus,
    mutation::{Random, mutate},
};

/// Mutations for each target.
const MUTATIONS: usize = 400;

#[test]
fn corpus_and_mutations() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let entries = corpus::read(target.name).expect("a corpus for every target");
        assert!(!entries.is_empty(), "{} has no corpus", target.name);
        failed.extend(entries.iter().filter_map(|entry| failure(target, entry)));
        let mut random = Random(target.name.len() as u64);
        for _ in 0..MUTATIONS {
            let pick = [random.below(entries.len()), random.below(entries.len())];
            let input = mutate(&mut random, &entries[pick[0]], &entries[pick[1]]);
            failed.extend(failure(target, &input));
        }
    }
    assert!(failed.is_empty(), "add to the corpus:\n{}", failed.join("\n"));
}

fn failure(target: &Target, input: &[u8]) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    outcome
        .is_err()
        .then(|| format!("{}: {}", target.name, input.escape_ascii()))
}
