//! Horizontal bars: what a request costs with each contender.

use plotters::prelude::*;

use crate::canvas::{
    BELOW, ENDS, FAINT, Frame, GRID, INK, MIDDLE, OTHERS, OURS, SMALL, STARTS, TEXT, bold, plain,
};
use crate::figures::{Figures, Suite};
use crate::names;

const CASE: &str = "eight_headers";
const TIMES: &str = "ns_over_by_hand";
const INSTRUCTIONS: &str = "instructions_net";
const ROW: u32 = 27;

/// Time, as a multiple of what it takes by hand.
pub(crate) fn overhead(figures: &Figures) -> anyhow::Result<Option<String>> {
    let Some((suite, bars)) = bars(figures, TIMES) else {
        return Ok(None);
    };
    let chart = Chart {
        title: "Time that attaching two headers adds to a request",
        metric: TIMES,
        axis: "time, as a multiple of two inserts by hand",
        bars,
        reference: Some((1.0, "by hand: 1.0".to_owned())),
        text: &|value| names::value(TIMES, value),
    };
    chart.draw(suite).map(Some)
}

/// Instructions, net of the bare service.
pub(crate) fn instructions(figures: &Figures) -> anyhow::Result<Option<String>> {
    let Some((suite, bars)) = bars(figures, INSTRUCTIONS) else {
        return Ok(None);
    };
    let by_hand = suite.value(CASE, INSTRUCTIONS, names::BY_HAND);
    let chart = Chart {
        title: "Instructions that attaching two headers adds to a request",
        metric: INSTRUCTIONS,
        axis: "instructions for each request",
        bars,
        reference: by_hand.map(|value| (value, format!("by hand: {}", names::thousands(value)))),
        text: &|value| {
            let times = by_hand.map(|by_hand| format!("  ({:.2} ×)", value / by_hand));
            names::value(INSTRUCTIONS, value) + &times.unwrap_or_default()
        },
    };
    chart.draw(suite).map(Some)
}

/// The contenders and their values, the least first. `bare` is what all are net of, and has none.
fn bars<'a>(figures: &'a Figures, metric: &'a str) -> Option<(&'a Suite, Vec<(&'a str, f64)>)> {
    let suite = figures.suite("overhead")?;
    let mut bars: Vec<_> = suite
        .select(CASE, metric)
        .map(|figure| (&*figure.contender, figure.value))
        .filter(|(contender, _)| *contender != names::BARE)
        .collect();
    bars.sort_by(|(name, value), (other_name, other)| {
        value.total_cmp(other).then(name.cmp(other_name))
    });
    (!bars.is_empty()).then_some((suite, bars))
}

struct Chart<'a> {
    title: &'a str,
    metric: &'a str,
    axis: &'a str,
    bars: Vec<(&'a str, f64)>,
    /// What it takes by hand, and how that is put.
    reference: Option<(f64, String)>,
    text: &'a dyn Fn(f64) -> String,
}

impl Chart<'_> {
    fn draw(&self, suite: &Suite) -> anyhow::Result<String> {
        let rows = u32::try_from(self.bars.len())?;
        let most = self.bars.iter().map(|(_, value)| *value);
        let most = most.fold(1.0, f64::max);
        let subtitle = format!(
            "{}; net of the service without a layer; shorter is better",
            names::case(CASE)
        );
        let frame = Frame {
            title: self.title,
            subtitle: &subtitle,
            footer: &suite.made_by(|figure| figure.metric == self.metric),
        };

        frame.picture(rows * ROW + 84, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin_top(22)
                .margin_right(24)
                .margin_left(24)
                .margin_bottom(BELOW)
                .set_label_area_size(LabelAreaPosition::Left, 200)
                .set_label_area_size(LabelAreaPosition::Bottom, 46)
                // Room for the value after the longest bar.
                .build_cartesian_2d(0.0..most * 1.18, 0.0..f64::from(rows))?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .y_labels(0)
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .axis_style(GRID)
                .x_labels(8)
                .x_label_formatter(&|value| names::tick(*value))
                .x_label_style(plain(SMALL, FAINT))
                .x_desc(self.axis)
                .axis_desc_style(plain(TEXT, INK))
                .draw()?;
            let plot = chart.plotting_area();

            for ((contender, value), row) in self.bars.iter().zip((0..rows).rev()) {
                let ours = names::is_ours(contender);
                let colour = match *contender {
                    _ if ours => OURS,
                    names::BY_HAND => FAINT,
                    _ => OTHERS,
                };
                let style = if ours { bold } else { plain };
                let bottom = f64::from(row);
                let end = value.max(0.0);
                plot.draw(&Rectangle::new(
                    [(0.0, bottom + 0.82), (end, bottom + 0.18)],
                    colour.filled(),
                ))?;
                plot.draw(
                    &(EmptyElement::at((0.0, bottom + 0.5))
                        + Text::new(
                            names::contender(contender),
                            (-8, 0),
                            style(TEXT, INK).pos(ENDS),
                        )),
                )?;
                plot.draw(
                    &(EmptyElement::at((end, bottom + 0.5))
                        + Text::new((self.text)(*value), (6, 0), style(TEXT, INK).pos(STARTS))),
                )?;
            }
            if let Some((reference, text)) = &self.reference {
                let (reference, top) = (*reference, f64::from(rows));
                plot.draw(&PathElement::new([(reference, 0.0), (reference, top)], INK))?;
                plot.draw(
                    &(EmptyElement::at((reference, top))
                        + Text::new(text.clone(), (0, -10), plain(SMALL, INK).pos(MIDDLE))),
                )?;
            }
            Ok(())
        })
    }
}
