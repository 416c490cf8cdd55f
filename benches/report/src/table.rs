//! The figures as Markdown tables.

use std::fmt::{self, Write};

use crate::figures::{Figures, Suite};
use crate::names;

/// What comes first; other suites follow.
const ORDER: [&str; 4] = ["overhead", "clone", "threads", "growth"];

/// A section for each suite, in it tables for each case, below them what made the figures.
pub(crate) fn write(figures: &Figures) -> anyhow::Result<Option<String>> {
    let others = figures.suites().filter(|name| !ORDER.contains(name));
    let mut text = String::new();
    for name in ORDER.into_iter().chain(others) {
        let Some(suite) = figures.suite(name) else {
            continue;
        };
        write!(text, "## {}\n\n", names::suite(name))?;
        for case in suite.cases() {
            values(&mut text, suite, case)?;
            let along = match name {
                "threads" => name.to_owned(),
                _ => names::case(case),
            };
            for metric in suite.metrics(case) {
                curves(&mut text, suite, (case, &along), metric)?;
            }
        }
        write!(text, "{}\n\n", suite.made_by(|_| true).join(" · "))?;
    }
    let text = text.trim_end();
    Ok((!text.is_empty()).then(|| format!("{text}\n")))
}

/// One table for all that are single values: a row for each contender, a column for each metric.
fn values(text: &mut String, suite: &Suite, case: &str) -> fmt::Result {
    let mut metrics = suite.metrics(case);
    metrics.retain(|metric| suite.curves(case, metric).is_empty());
    if metrics.is_empty() {
        return Ok(());
    }
    write!(text, "**{}**\n\n", names::case(case))?;
    head(
        text,
        "contender",
        metrics.iter().map(|name| names::metric(name)),
    )?;
    for contender in suite.contenders(case) {
        let values = metrics.iter().map(|metric| {
            let value = suite.value(case, metric, contender);
            value.map(|value| names::value(metric, value))
        });
        row(text, contender, values)?;
    }
    text.push('\n');
    Ok(())
}

/// One table for each metric that makes curves: a row for each contender, a column for each point.
fn curves(
    text: &mut String,
    suite: &Suite,
    (case, along): (&str, &str),
    metric: &str,
) -> fmt::Result {
    let curves = suite.curves(case, metric);
    if curves.is_empty() {
        return Ok(());
    }
    let points = curves.values().flatten();
    let mut positions: Vec<f64> = points.map(|(x, _)| *x).collect();
    positions.sort_by(f64::total_cmp);
    positions.dedup();

    write!(
        text,
        "**{}: {}**\n\n",
        names::case(case),
        names::metric(metric)
    )?;
    head(
        text,
        &format!("contender, by {along}"),
        positions.iter().map(|x| names::thousands(*x)),
    )?;
    for contender in suite.contenders(case) {
        let Some(curve) = curves.get(contender) else {
            continue;
        };
        let values = positions.iter().map(|position| {
            let point = curve.iter().find(|(x, _)| x.total_cmp(position).is_eq());
            point.map(|(_, value)| names::value(metric, *value))
        });
        row(text, contender, values)?;
    }
    text.push('\n');
    Ok(())
}

fn head(text: &mut String, first: &str, rest: impl Iterator<Item = String>) -> fmt::Result {
    write!(text, "| {first} |")?;
    let mut columns = 0;
    for column in rest {
        write!(text, " {column} |")?;
        columns += 1;
    }
    write!(text, "\n|---|{}\n", "---:|".repeat(columns))
}

fn row(
    text: &mut String,
    contender: &str,
    values: impl Iterator<Item = Option<String>>,
) -> fmt::Result {
    let name = names::contender(contender);
    if names::is_ours(contender) {
        write!(text, "| **{name}** |")?;
    } else {
        write!(text, "| {name} |")?;
    }
    for value in values {
        write!(text, " {} |", value.unwrap_or_default())?;
    }
    text.push('\n');
    Ok(())
}
