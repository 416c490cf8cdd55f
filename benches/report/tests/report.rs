//! Figures in, pictures and tables out: the command, run on samples and on what must be refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use roxmltree::{Document, Node};

/// Its own tests run here, since benchmarks have none.
#[path = "../../figures/mod.rs"]
#[allow(dead_code, reason = "it is used by the benchmarks")]
mod figures;

const PICTURES: [&str; 5] = ["overhead", "instructions", "threads", "growth", "trip"];

/// The contenders of the samples that a picture of all of them must name.
const CONTENDERS: [&str; 12] = [
    "two inserts by hand",
    "tower-anyreach, access token",
    "tower-anyreach, API key",
    "tower-http",
    "tower-http, denials classified",
    "map_request",
    "map_request, formatting",
    "boxed async middleware",
    "octocrab",
    "kube-client",
    "tonic",
    "reqwest",
];

/// A target directory of the test's own, with these files among the figures.
fn target(name: &str, figures: &[(&str, &str)]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if target.exists() {
        fs::remove_dir_all(&target).unwrap();
    }
    fs::create_dir_all(target.join("figures")).unwrap();
    for (file, text) in figures {
        fs::write(target.join("figures").join(file), text).unwrap();
    }
    target
}

/// The same with all samples.
fn samples(name: &str) -> PathBuf {
    let target = target(name, &[]);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures");
    for entry in fs::read_dir(samples).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), target.join("figures").join(entry.file_name())).unwrap();
    }
    target
}

fn report(target: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_anyreach_report"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap()
}

/// What the command makes of all samples, under this name.
#[track_caller]
fn made(name: &str, file: &str) -> String {
    let target = samples(name);
    let output = report(&target, &[]);
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(target.join("figures").join(file)).unwrap()
}

fn texts<'a>(picture: &'a Document<'_>) -> Vec<&'a str> {
    let nodes = picture.descendants();
    let texts = nodes.filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
    texts
        .filter_map(|node| node.text())
        .map(str::trim)
        .collect()
}

fn number(node: Node<'_, '_>, attribute: &str) -> f64 {
    node.attribute(attribute).unwrap().parse().unwrap()
}

/// The points of every line, in pixels.
fn polylines(picture: &Document<'_>) -> Vec<Vec<(f64, f64)>> {
    let lines = picture
        .descendants()
        .filter_map(|node| node.attribute("points"));
    let point = |point: &str| {
        let (x, y) = point.split_once(',').unwrap();
        (x.parse().unwrap(), y.parse().unwrap())
    };
    lines
        .map(|points| points.split_whitespace().map(point).collect())
        .collect()
}

#[test]
fn pictures_are_small_well_formed_and_refer_to_nothing() {
    let target = samples("well_formed");
    assert!(report(&target, &[]).status.success());
    for name in PICTURES {
        let text = fs::read_to_string(target.join(format!("figures/{name}.svg"))).unwrap();
        assert!(text.len() < 30_000, "{name}: {} bytes", text.len());
        let picture = Document::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            number(picture.root_element(), "width").to_string(),
            "800",
            "{name}"
        );
        for node in picture.descendants().filter(Node::is_element) {
            let tag = node.tag_name().name();
            let known = ["svg", "rect", "line", "polyline", "circle", "text"];
            assert!(known.contains(&tag), "{name}: {tag}");
            for attribute in node.attributes() {
                assert!(!attribute.name().contains("href"), "{name}: {attribute:?}");
                assert!(!attribute.value().contains("url("), "{name}: {attribute:?}");
            }
        }
    }
}

#[test]
fn pictures_say_what_made_them() {
    let target = samples("made_by");
    assert!(report(&target, &[]).status.success());
    for name in PICTURES {
        let text = fs::read_to_string(target.join(format!("figures/{name}.svg"))).unwrap();
        let picture = Document::parse(&text).unwrap();
        let all = texts(&picture).join(" ").replace('\u{a0}', " ");
        for expected in [
            "cargo bench",
            "rustc 1.95.0",
            "Example CPU",
            "2 cores",
            "2026-11-22",
        ] {
            assert!(all.contains(expected), "{name}: {expected} in {all}");
        }
    }
}

#[test]
fn bars_name_every_contender_the_cheapest_first() {
    for file in ["overhead.svg", "instructions.svg"] {
        let text = made("contenders", file);
        let picture = Document::parse(&text).unwrap();
        let texts = texts(&picture);
        for contender in CONTENDERS {
            assert!(
                texts.contains(&contender),
                "{file}: {contender} in {texts:?}"
            );
        }
        assert!(!texts.contains(&"no layer"), "{file}");
    }

    let text = made("contenders", "overhead.svg");
    let picture = Document::parse(&text).unwrap();
    let values = [
        "1.00", "1.22", "1.38", "1.59", "1.60", "1.70", "1.74", "1.85", "2.28", "2.51", "2.61",
        "2.97",
    ];
    let shown = texts(&picture);
    let shown: Vec<_> = shown.iter().filter(|text| values.contains(text)).collect();
    assert_eq!(shown, values.iter().collect::<Vec<_>>());
}

#[test]
fn reference_line_is_where_the_bar_by_hand_ends() {
    for (file, text) in [
        ("overhead.svg", "by hand: 1.0"),
        ("instructions.svg", "by hand: 722"),
    ] {
        let svg = made("reference", file);
        let picture = Document::parse(&svg).unwrap();
        let label = picture.descendants().find(|node| {
            node.is_element() && node.text().is_some_and(|inner| inner.trim() == text)
        });
        let x = number(label.unwrap_or_else(|| panic!("{file}: {text}")), "x");
        let by_hand = picture.descendants().find(|node| {
            node.attribute("fill") == Some("#59636E")
                && node.has_tag_name(("http://www.w3.org/2000/svg", "rect"))
        });
        let by_hand = by_hand.unwrap();
        let end = number(by_hand, "x") + number(by_hand, "width");
        assert!((x - end).abs() <= 1.0, "{file}: {x} and {end}");
        assert!(
            polylines(&picture).iter().any(|line| {
                let tall = line.len() == 2 && (line[0].1 - line[1].1).abs() > 200.0;
                tall && line.iter().all(|(at, _)| (at - x).abs() <= 1.0)
            }),
            "{file}: no line at {x}"
        );
    }
}

#[test]
fn lines_of_threads_are_named_in_both_panels() {
    let text = made("threads", "threads.svg");
    let picture = Document::parse(&text).unwrap();
    let texts = texts(&picture);
    for expected in [
        "one service, cloned for each request",
        "one service, called by every thread",
        "two inserts by hand  7.90",
        "two inserts by hand  6.52",
        "tower-anyreach, access token  1.04",
        "tower-anyreach, access token  1.03",
        "octocrab  4.90",
    ] {
        assert!(texts.contains(&expected), "{expected} in {texts:?}");
    }
}

#[test]
fn flat_growth_looks_flat() {
    let text = made("growth", "growth.svg");
    let picture = Document::parse(&text).unwrap();
    let lines = polylines(&picture);
    let curves: Vec<_> = lines.iter().filter(|line| line.len() > 4).collect();
    assert_eq!(curves.len(), 4);
    for curve in curves {
        let heights = || curve.iter().map(|(_, y)| *y);
        let rise = heights().fold(0.0, f64::max) - heights().fold(f64::MAX, f64::min);
        // A twentieth of time, and a third of a percent of instructions.
        assert!(rise < 8.0, "{curve:?}");
    }
    // The vertical axes begin at nothing, and nothing is one of the rates.
    assert_eq!(
        texts(&picture).iter().filter(|text| **text == "0").count(),
        5
    );
}

#[test]
fn trip_pairs_with_and_without() {
    let text = made("trip", "trip.svg");
    let picture = Document::parse(&text).unwrap();
    let texts = texts(&picture);
    for expected in [
        "with the layer",
        "without the layer",
        "HTTP/1.1",
        "HTTP/2",
        "requests per second",
        "latency, µs",
        "48,402",
        "48,210",
        "61,342",
        "61,055",
        "70.9",
        "71.5",
        "187",
        "188",
    ] {
        assert!(texts.contains(&expected), "{expected} in {texts:?}");
    }
}

#[test]
fn table_has_single_values_and_curves() {
    let table = made("table", "table.md");
    for expected in [
        "## Overhead\n\n**a request without headers**\n\n| contender | ns | ns × by hand | instructions | instructions × by hand |\n|---|---:|---:|---:|---:|\n",
        "| **tower-anyreach, API key** | 68.6 | 1.22 | 964 | 1.34 |\n",
        "**one service, cloned for each request: shared / own**\n\n| contender, by threads | 1 | 2 | 4 |\n|---|---:|---:|---:|\n| two inserts by hand | 1.00 | 5.28 | 7.90 |\n",
        "| contender, by rotations per second | 0 | 1 | 10 | 100 | 1,000 |\n",
        "| **with the layer** | 48,210 | 38.1 | 71.5 | 20.4 | 214 |\n",
    ] {
        assert!(table.contains(expected), "{expected} in {table}");
    }
}

#[test]
fn the_same_figures_make_the_same_bytes() {
    let target = samples("same");
    let [one, two] = ["one", "two"].map(|name| target.join(name));
    for directory in [&one, &two] {
        let output = report(&target, &[directory.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }
    let files = PICTURES.map(|name| format!("{name}.svg"));
    for file in files.iter().map(String::as_str).chain(["table.md"]) {
        assert_eq!(
            fs::read(one.join(file)).unwrap(),
            fs::read(two.join(file)).unwrap(),
            "{file}"
        );
        assert!(!target.join("figures").join(file).exists(), "{file}");
    }
}

#[test]
fn missing_suites_are_skipped_with_a_note() {
    let target = samples("missing");
    fs::remove_file(target.join("figures/trip.jsonl")).unwrap();
    let output = report(&target, &[]);
    assert!(output.status.success(), "{output:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("trip.svg: skipped, for there are no figures of suite trip\n"),
        "{errors}"
    );
    assert!(!target.join("figures/trip.svg").exists());
    assert!(target.join("figures/overhead.svg").exists());
}

#[test]
fn a_suite_may_come_in_several_files_each_with_its_command() {
    let figure = |metric: &str, value| {
        format!(
            r#"{{"suite":"overhead","case":"eight_headers","contender":"by_hand","x":null,"metric":"{metric}","value":{value}}}"#
        )
    };
    let file = |command: &str, figure: &str| {
        format!(
            "{{\"suite\":\"overhead\",\"about\":\"command\",\"text\":\"{command}\"}}\n{figure}\n"
        )
    };
    let counted = file("count", &figure("instructions_net", 722));
    let timed = file("measure", &figure("ns_over_by_hand", 1));
    let target = target(
        "several",
        &[("counted.jsonl", &counted), ("timed.jsonl", &timed)],
    );
    let output = report(&target, &[]);
    assert!(output.status.success(), "{output:?}");
    for (file, command, other) in [
        ("overhead.svg", "measure", "count"),
        ("instructions.svg", "count", "measure"),
    ] {
        let text = fs::read_to_string(target.join("figures").join(file)).unwrap();
        let picture = Document::parse(&text).unwrap();
        let texts = texts(&picture);
        assert!(
            texts.contains(&command) && !texts.contains(&other),
            "{file}: {texts:?}"
        );
    }
}

#[test]
fn a_malformed_line_is_an_error_that_names_file_and_line() {
    let good = r#"{"suite":"trip","case":"http1","contender":"with_layer","x":null,"metric":"p99_us","value":1.5}"#;
    for (name, bad, reason) in [
        ("no JSON", "p99_us 1.5", "expected value"),
        ("an empty line", "", "EOF"),
        (
            "no x",
            r#"{"suite":"trip","case":"http2","contender":"with_layer","metric":"p99_us","value":1}"#,
            "missing field `x`",
        ),
        (
            "no number",
            r#"{"suite":"trip","case":"http2","contender":"with_layer","x":null,"metric":"p99_us","value":null}"#,
            "invalid type: null",
        ),
        (
            "no text",
            r#"{"suite":"trip","about":"command"}"#,
            "missing field `text`",
        ),
        ("a figure twice", good, "this figure was given before"),
    ] {
        let target = target("malformed", &[("trip.jsonl", &format!("{good}\n{bad}\n"))]);
        let output = report(&target, &[]);
        assert!(!output.status.success(), "{name}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("trip.jsonl:2"), "{name}: {errors}");
        assert!(errors.contains(reason), "{name}: {errors}");
        assert!(!target.join("figures/trip.svg").exists(), "{name}");
    }
}

#[test]
fn a_missing_directory_is_an_error() {
    let target = target("none", &[]);
    fs::remove_dir(target.join("figures")).unwrap();
    let output = report(&target, &[]);
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no figures to read"), "{errors}");
}
