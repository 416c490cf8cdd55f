//! Paired bars: whole requests over real sockets, with and without the layer.

use plotters::prelude::*;

use crate::canvas::{
    Area, BELOW, FAINT, Frame, GRID, INK, MIDDLE, OTHERS, OURS, SMALL, STARTS, TEXT, bold, plain,
};
use crate::figures::{Figures, Suite};
use crate::names;
use crate::ticks::Ticks;

const SUITE: &str = "trip";
const CASES: [&str; 2] = ["http1", "http2"];
const CONTENDERS: [(&str, RGBColor, f64); 2] =
    [("without_layer", OTHERS, 0.14), ("with_layer", OURS, 0.52)];
const BAR: f64 = 0.34;
const PANELS: [(&str, &str, &str); 2] = [
    (
        "requests_per_second",
        "Throughput: higher is better",
        "requests per second",
    ),
    (
        "p99_us",
        "99th percentile of latency: lower is better",
        "latency, µs",
    ),
];

/// Requests per second, and the latency that one request in a hundred exceeds.
pub(crate) fn draw(figures: &Figures) -> anyhow::Result<Option<String>> {
    let Some(suite) = figures.suite(SUITE) else {
        return Ok(None);
    };
    let panels: Vec<_> = PANELS
        .iter()
        .filter(|(metric, ..)| {
            CASES
                .iter()
                .any(|case| suite.select(case, metric).count() > 0)
        })
        .collect();
    if panels.is_empty() {
        return Ok(None);
    }

    let frame = Frame {
        title: "Whole requests over real sockets, with the layer and without it",
        subtitle: "a client and a server on loopback",
        footer: &suite.made_by(|_| true),
    };
    let picture = frame.picture(340, |area| {
        let (legend, area) = area.split_vertically(24);
        for ((contender, colour, _), left) in CONTENDERS.iter().zip([24, 160]) {
            legend.draw(&Rectangle::new(
                [(left, 4), (left + 12, 16)],
                colour.filled(),
            ))?;
            let text = names::contender(contender);
            legend.draw(&Text::new(
                text,
                (left + 18, 10),
                plain(TEXT, INK).pos(STARTS),
            ))?;
        }
        for ((metric, title, unit), area) in panels.iter().zip(area.split_evenly((1, 2))) {
            panel(suite, metric, title, unit, &area)?;
        }
        Ok(())
    })?;
    Ok(Some(picture))
}

fn panel(
    suite: &Suite,
    metric: &str,
    title: &str,
    unit: &str,
    area: &Area<'_>,
) -> anyhow::Result<()> {
    let values = CASES.iter().flat_map(|case| suite.select(case, metric));
    let most = values.fold(1.0, |most: f64, figure| most.max(figure.value));
    area.draw(&Text::new(title, (24, 14), bold(TEXT, INK).pos(STARTS)))?;
    let protocols = [0.5, 1.5].into_iter().zip(CASES.map(names::case));
    let mut chart = ChartBuilder::on(area)
        .margin_top(32)
        .margin_left(16)
        .margin_right(16)
        .margin_bottom(BELOW)
        .set_label_area_size(LabelAreaPosition::Left, 70)
        .set_label_area_size(LabelAreaPosition::Bottom, 48)
        .build_cartesian_2d(
            Ticks::new(0.0..2.0, protocols.collect()),
            // Room for the value above the highest bar.
            0.0..most * 1.12,
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .y_labels(6)
        .y_label_formatter(&|value| names::thousands(*value))
        .label_style(plain(SMALL, FAINT))
        .x_desc("protocol")
        .y_desc(unit)
        .axis_desc_style(plain(TEXT, INK))
        .draw()?;
    let plot = chart.plotting_area();
    for (case, begin) in CASES.iter().zip([0.0, 1.0]) {
        for (contender, colour, left) in CONTENDERS {
            let Some(value) = suite.value(case, metric, contender) else {
                continue;
            };
            let left = begin + left;
            plot.draw(&Rectangle::new(
                [(left, value), (left + BAR, 0.0)],
                colour.filled(),
            ))?;
            plot.draw(
                &(EmptyElement::at((left + BAR / 2.0, value))
                    + Text::new(
                        names::value(metric, value),
                        (0, -10),
                        plain(SMALL, INK).pos(MIDDLE),
                    )),
            )?;
        }
    }
    Ok(())
}
