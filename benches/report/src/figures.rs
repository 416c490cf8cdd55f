//! Reads the figures that the benchmarks have written, as JSON lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// What was measured, by the name of the suite.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    suites: BTreeMap<String, Suite>,
}

/// The figures of one suite, in the order of the files, and what made each file.
#[derive(Debug, Default)]
pub(crate) struct Suite {
    about: BTreeMap<(usize, String), String>,
    figures: Vec<Figure>,
}

/// One measured value.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Figure {
    suite: String,
    /// Which file it is from.
    #[serde(skip)]
    file: usize,
    pub(crate) case: String,
    pub(crate) contender: String,
    /// Where on a curve; `null` otherwise. Required, so that a misspelt one is noticed.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) x: Option<f64>,
    pub(crate) metric: String,
    pub(crate) value: f64,
}

/// Points by ascending `x`, by the name of the contender.
pub(crate) type Curves<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

/// One thing to know of how the figures were made.
#[derive(Debug, Deserialize)]
struct About {
    suite: String,
    #[serde(rename = "about")]
    subject: String,
    text: String,
}

impl Figures {
    /// Reads every `*.jsonl` in the directory, by name.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut paths = BTreeSet::new();
        let entries = fs::read_dir(directory)
            .with_context(|| format!("{}: no figures to read", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                paths.insert(path);
            }
        }

        let mut figures = Self::default();
        for (file, path) in paths.iter().enumerate() {
            let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
            for (index, line) in text.lines().enumerate() {
                figures
                    .add(file, line)
                    .with_context(|| format!("{}:{}", path.display(), index + 1))?;
            }
        }
        Ok(figures)
    }

    fn add(&mut self, file: usize, line: &str) -> anyhow::Result<()> {
        let line: Value = serde_json::from_str(line)?;
        if line.get("about").is_some() {
            let About {
                suite,
                subject,
                text,
            } = serde_json::from_value(line)?;
            let suite = self.suites.entry(suite).or_default();
            suite.about.insert((file, subject), text);
        } else {
            let mut figure: Figure = serde_json::from_value(line)?;
            figure.file = file;
            let figures = &mut self.suites.entry(figure.suite.clone()).or_default().figures;
            if figures.iter().any(|other| other.is_at(&figure)) {
                bail!("this figure was given before");
            }
            figures.push(figure);
        }
        Ok(())
    }

    /// The names of the suites, in alphabetical order.
    pub(crate) fn suites(&self) -> impl Iterator<Item = &str> {
        self.suites.keys().map(String::as_str)
    }

    pub(crate) fn suite(&self, name: &str) -> Option<&Suite> {
        self.suites.get(name)
    }
}

impl Suite {
    /// The figures of one case and metric, in the order of the file.
    pub(crate) fn select<'a>(
        &'a self,
        case: &'a str,
        metric: &'a str,
    ) -> impl Iterator<Item = &'a Figure> {
        self.figures
            .iter()
            .filter(move |figure| figure.case == case && figure.metric == metric)
    }

    /// The single value of a contender.
    pub(crate) fn value(&self, case: &str, metric: &str, contender: &str) -> Option<f64> {
        self.select(case, metric)
            .find(|figure| figure.contender == contender)
            .map(|figure| figure.value)
    }

    /// The curve of each contender.
    pub(crate) fn curves<'a>(&'a self, case: &'a str, metric: &'a str) -> Curves<'a> {
        let mut curves = Curves::new();
        for figure in self.select(case, metric) {
            if let Some(x) = figure.x {
                let curve = curves.entry(&figure.contender).or_default();
                curve.push((x, figure.value));
            }
        }
        for curve in curves.values_mut() {
            curve.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        }
        curves
    }

    /// The cases, in the order of the file.
    pub(crate) fn cases(&self) -> Vec<&str> {
        distinct(self.figures.iter().map(|figure| &*figure.case))
    }

    /// The contenders of a case, in the order of the file.
    pub(crate) fn contenders(&self, case: &str) -> Vec<&str> {
        distinct(self.of(case).map(|figure| &*figure.contender))
    }

    /// The metrics of a case, in the order of the file.
    pub(crate) fn metrics(&self, case: &str) -> Vec<&str> {
        distinct(self.of(case).map(|figure| &*figure.metric))
    }

    fn of(&self, case: &str) -> impl Iterator<Item = &Figure> {
        self.figures
            .iter()
            .filter(move |figure| figure.case == case)
    }

    /// What made these figures: command, compiler, machine and so on.
    pub(crate) fn made_by(&self, these: impl Fn(&Figure) -> bool) -> Vec<String> {
        let figures = self.figures.iter().filter(|figure| these(figure));
        let files: BTreeSet<usize> = figures.map(|figure| figure.file).collect();
        ["command", "rustc", "machine", "date", "versions"]
            .iter()
            .map(|subject| {
                let texts = files
                    .iter()
                    .filter_map(|file| self.about.get(&(*file, (*subject).to_owned())));
                distinct(texts.map(String::as_str)).join("; ")
            })
            .filter(|texts| !texts.is_empty())
            .collect()
    }
}

impl Figure {
    fn is_at(&self, other: &Self) -> bool {
        (&self.case, &self.contender, self.x, &self.metric)
            == (&other.case, &other.contender, other.x, &other.metric)
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}
