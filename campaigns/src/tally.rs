//! Counts by name, and the first violations.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// The results of a campaign's cases.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

impl Tally {
    /// Adds a number to the count of that name.
    pub fn add(&mut self, name: &'static str, number: u64) {
        *self.counts.entry(name).or_default() += number;
    }

    /// Returns the count of that name.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Counts a violation, and keeps the text of the first ten.
    pub fn violation(&mut self, what: impl FnOnce() -> String) {
        self.add("violations", 1);
        if self.violations.len() < 10 {
            self.violations.push(what());
        }
    }

    /// Fails if there was a violation.
    pub fn assert_no_violations(&self) {
        let violations = self.violations.join("\n");
        assert_eq!(self.count("violations"), 0, "{violations}");
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (name, number) in other.counts {
            self.add(name, number);
        }
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |(name, count): (&&str, &u64)| format!("{count} {name}");
        let counts: Vec<_> = self.counts.iter().map(count).collect();
        f.write_str(&counts.join(", "))
    }
}
