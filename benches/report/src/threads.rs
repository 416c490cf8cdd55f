//! Lines: what it costs that threads share a service.

use crate::canvas::Frame;
use crate::figures::Figures;
use crate::lines::{Curve, Panel, colours};
use crate::names;

const CASES: [&str; 2] = ["clone_per_request", "call_shared"];
const METRIC: &str = "shared_over_own";
const PANEL: u32 = 310;

/// The time with a shared service, as a multiple of that with a service for each thread.
pub(crate) fn draw(figures: &Figures) -> anyhow::Result<Option<String>> {
    let Some(suite) = figures.suite("threads") else {
        return Ok(None);
    };
    let curves = CASES.map(|case| (case, suite.curves(case, METRIC)));
    let panels: Vec<_> = curves
        .into_iter()
        .filter(|(_, curves)| !curves.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let mut contenders: Vec<&str> = CASES
        .iter()
        .flat_map(|case| suite.contenders(case))
        .filter(|contender| *contender != names::BARE)
        .collect();
    contenders.sort_unstable();
    contenders.dedup();
    let colours = colours(&contenders);

    let frame = Frame {
        title: "What sharing one service among threads costs",
        subtitle: "time for each request with a shared service, as a multiple of that with one for each thread; \
                   1 is free, lower is better",
        footer: &suite.made_by(|figure| figure.metric == METRIC),
    };
    let height = PANEL * u32::try_from(panels.len())?;
    let picture = frame.picture(height, |area| {
        for ((case, curves), area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
            let threads = curves.values().flatten().map(|(threads, _)| *threads);
            let mut threads: Vec<f64> = threads.collect();
            threads.sort_by(f64::total_cmp);
            threads.dedup();
            let curve = |(contender, colour): &(&str, _)| {
                let points = curves.get(contender)?;
                let (_, last) = points.last()?;
                Some(Curve {
                    label: format!("{}  {last:.2}", names::contender(contender)),
                    colour: *colour,
                    ours: names::is_ours(contender),
                    points: points.clone(),
                })
            };
            Panel {
                title: names::case(case),
                x_title: "threads".to_owned(),
                y_title: "shared / own",
                ticks: threads
                    .into_iter()
                    .map(|count| (count, names::thousands(count)))
                    .collect(),
                reaches: 1.5,
                label_width: 250,
                curves: colours.iter().filter_map(curve).collect(),
            }
            .draw(&area)?;
        }
        Ok(())
    })?;
    Ok(Some(picture))
}
