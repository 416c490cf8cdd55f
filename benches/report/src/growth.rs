//! Lines: whether a request costs more as something grows in number.

use anyhow::ensure;

use crate::canvas::Frame;
use crate::figures::{Curves, Figures, Suite};
use crate::lines::{Curve, Panel, colours};
use crate::names;

/// What is looked for in each case, the best first: instructions do not depend on what else the machine does.
const METRICS: [(&str, &str); 2] = [("instructions_net", "instructions"), ("ns_net", "time")];
const PANEL: u32 = 244;
const COLUMNS: usize = 2;
/// As many labels as fit below a panel.
const TICKS: usize = 6;

/// The cost of a request, as a multiple of what it is at the beginning of each curve.
pub(crate) fn draw(figures: &Figures) -> anyhow::Result<Option<String>> {
    let Some(suite) = figures.suite("growth") else {
        return Ok(None);
    };
    let mut panels = Vec::new();
    for case in suite.cases() {
        panels.extend(panel(suite, case)?);
    }
    if panels.is_empty() {
        return Ok(None);
    }

    let frame = Frame {
        title: "What a request costs as things grow in number",
        subtitle: "net of the service without a layer, as a multiple of the first point; flat is better",
        footer: &suite.made_by(|_| true),
    };
    let rows = panels.len().div_ceil(COLUMNS);
    let picture = frame.picture(PANEL * u32::try_from(rows)?, |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((rows, COLUMNS))) {
            panel.draw(&area)?;
        }
        Ok(())
    })?;
    Ok(Some(picture))
}

fn panel(suite: &Suite, case: &str) -> anyhow::Result<Option<Panel<'static>>> {
    let measured = METRICS
        .iter()
        .map(|(metric, unit)| (suite.curves(case, metric), unit))
        .find(|(curves, _)| !curves.is_empty());
    let Some((curves, unit)) = measured else {
        return Ok(None);
    };
    let Some(axis) = LogAxis::new(&curves) else {
        return Ok(None);
    };

    let contenders: Vec<&str> = curves.keys().copied().collect();
    let alone = contenders.len() == 1;
    let mut lines = Vec::new();
    for (contender, colour) in colours(&contenders) {
        let points = &curves[contender];
        let (first, last) = (points[0].1, points[points.len() - 1].1 / points[0].1);
        ensure!(
            first > 0.0,
            "{case}, {contender}: nothing to compare with, for it begins at {first}"
        );
        lines.push(Curve {
            label: if alone {
                format!("{last:.2}")
            } else {
                format!("{}  {last:.2}", short(contender))
            },
            colour,
            ours: names::is_ours(contender),
            points: points
                .iter()
                .map(|(count, value)| (axis.position(*count), value / first))
                .collect(),
        });
    }
    Ok(Some(Panel {
        title: format!("{}: {unit}", names::case(case)),
        x_title: format!("{} (log scale)", names::case(case)),
        y_title: "relative to first",
        ticks: axis.ticks(),
        reaches: 1.5,
        label_width: if alone { 70 } else { 130 },
        curves: lines,
    }))
}

/// Without the crate's name, for which a small panel has no room.
fn short(contender: &str) -> String {
    let name = names::contender(contender);
    name.strip_prefix("tower-anyreach, ")
        .map_or(name.clone(), str::to_owned)
}

/// A logarithmic axis that has a place for zero, one decade before the least.
struct LogAxis {
    counts: Vec<f64>,
    zero: f64,
}

impl LogAxis {
    fn new(curves: &Curves<'_>) -> Option<Self> {
        let mut counts: Vec<f64> = curves.values().flatten().map(|(count, _)| *count).collect();
        counts.sort_by(f64::total_cmp);
        counts.dedup();
        let least = *counts.iter().find(|count| **count > 0.0)?;
        let zero = least.log10() - 1.0;
        Some(Self { counts, zero })
    }

    fn position(&self, count: f64) -> f64 {
        if count > 0.0 {
            count.log10()
        } else {
            self.zero
        }
    }

    /// What was counted, thinned until it fits.
    fn ticks(&self) -> Vec<(f64, String)> {
        let step = self.counts.len().div_ceil(TICKS);
        let counts = self.counts.iter().step_by(step);
        counts
            .map(|count| (self.position(*count), names::thousands(*count)))
            .collect()
    }
}
