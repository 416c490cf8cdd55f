#![allow(
    clippy::too_many_lines,
    reason = "one function has the events of the whole table"
)]

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn key(number: u8) -> Fingerprint {
    Fingerprint([number; 32])
}

/// A state in one column of the table, with the time of its next event.
struct Case {
    state: State,
    now: Instant,
}

/// Returns a state in this column of the table: nothing in flight, a poll, or a look.
fn column(name: &str) -> Case {
    let now = Instant::now();
    let mut state = State::new(key(1), PATIENCE, now);
    match name {
        "idle" => {}
        "poll, call or superseded look in flight" => assert_eq!(state.poll(now), Some(1)),
        "look in flight" => assert_eq!(state.denied(key(1), true, now), (true, Some(1))),
        _ => panic!("no such column: {name}"),
    }
    Case { state, now }
}

/// Reports a 401 and returns the cell that describes what follows.
fn denied(case: &mut Case, sent: Fingerprint) -> &'static str {
    let Case { state, now } = case;
    let (begun, owed) = (state.begun, state.owes());
    match state.denied(sent, true, *now).1 {
        None if sent != state.in_force => "replay",
        None => "deny",
        Some(look) if state.begun > begun => {
            assert_eq!(look, state.begun);
            "look, wait"
        }
        Some(look) if state.owes() != owed => {
            assert_eq!(look, begun + 1);
            "wait, owe a look"
        }
        Some(look) => {
            assert_eq!(look, begun);
            "wait"
        }
    }
}

/// Ends the fetch in flight and returns the cell that describes what follows.
fn end(case: &mut Case, fetched: Result<Fingerprint, SourceError>) -> String {
    let Case { state, now } = case;
    let version = state.version;
    let ended = state.ended(1, fetched, *now, 0.0).unwrap();
    assert!(matches!(state.progress(1, *now), Progress::Ended(_)));
    let mut said = Vec::new();
    if state.version > version {
        assert!(ended.is_taken);
        said.push("publish");
    }
    if state.rest.is_some() {
        said.push("rest");
    }
    if let Some(next) = ended.next {
        assert_eq!(next, 2);
        let is_look = state.fetch.as_ref().unwrap().is_look;
        said.push(if is_look { "look" } else { "fetch" });
    }
    if said.is_empty() {
        said.push("nothing");
    }
    said.join(", ")
}

/// Applies an event and returns the cell that describes what followed.
fn cell(event: &str, column_name: &str) -> String {
    let mut case = column(column_name);
    let Case { state, now } = &mut case;
    let now = *now;
    let is_look = column_name == "look in flight";
    match event {
        "401 to another credential" => denied(&mut case, key(2)).into(),
        "401 to the one in force, at rest" if is_look => "-".into(),
        "401 to the one in force, at rest" => {
            state.rest = Some((now, SECOND));
            denied(&mut case, key(1)).into()
        }
        "401 to the one in force" => denied(&mut case, key(1)).into(),
        "poll is due" => match state.poll(now) {
            Some(_) => "fetch".into(),
            None => "nothing".into(),
        },
        "`refresh()`" => {
            let begun = state.begun;
            assert_eq!(state.call(now), begun + 1);
            match state.begun > begun {
                true => "fetch, wait".into(),
                false if state.owes() => "owe a fetch, wait".into(),
                false => "wait".into(),
            }
        }
        _ if event.starts_with("fetch") && state.fetch.is_none() => "-".into(),
        "fetch ends, takes another credential" => end(&mut case, Ok(key(2))),
        "fetch ends, takes nothing" => end(&mut case, Ok(key(1))),
        "fetch ends, a look is owed to the version in force" if is_look => "-".into(),
        "fetch ends, a look is owed to the version in force" => {
            state.denied(key(1), true, now);
            end(&mut case, Ok(key(1)))
        }
        "fetch ends, a fetch is owed" => {
            state.call(now);
            end(&mut case, Ok(key(1)))
        }
        "`rotate`, another credential" => {
            state.rest = Some((now, SECOND));
            assert!(state.rotate(key(2), now));
            assert!(state.rest.is_none() && state.in_force == key(2));
            "publish, end rest".into()
        }
        "`rotate`, the same credential" => {
            let before = state.version;
            assert!(!state.rotate(key(1), now));
            assert_eq!(state.version, before);
            "nothing".into()
        }
        "fetch is lost" => {
            state.lost(1);
            assert!(matches!(state.progress(1, now), Progress::Lost));
            assert!(state.fetch.is_none() && state.rest.is_none() && state.failures == 0);
            "idle".into()
        }
        _ => panic!("no such event: {event}"),
    }
}

impl State {
    fn owes(&self) -> bool {
        let fetch = self.fetch.as_ref();
        fetch.is_some_and(|fetch| fetch.is_call_owed || fetch.look_owed_to.is_some())
    }
}

#[test]
fn a_fetch_is_late_after_its_deadline_or_if_another_clock_set_a_deadline_far_ahead() {
    let now = Instant::now();
    let mut state = State::new(key(1), PATIENCE, now);
    assert!(state.poll(now).is_some());
    let is_late = |now| state.late(now).is_some();
    let millisecond = Duration::from_millis(1);
    assert!(!is_late(now) && !is_late(now + PATIENCE - millisecond));
    assert!(is_late(now + PATIENCE));
    // The clock of one paused runtime may be slightly ahead of that of another.
    assert!(!is_late(now - PATIENCE) && is_late(now - PATIENCE - millisecond));
}

#[test]
fn a_rest_ends_on_time() {
    let Case { mut state, now } = column("idle");
    state.rest = Some((now - SECOND, SECOND));
    assert_eq!(state.denied(key(1), true, now), (true, Some(1)));
}

#[test]
fn the_code_does_what_the_table_in_the_module_comment_says() {
    let rows: Vec<Vec<&str>> = include_str!("../state.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .map(|line| line.trim_end_matches(" |").split(" | ").collect())
        .collect();
    let (head, rows) = rows.split_first().unwrap();
    assert_eq!(rows.len(), 12);
    for row in rows {
        for (column, said) in head.iter().zip(row).skip(1) {
            assert_eq!(cell(row[0], column), *said, "{} / {column}", row[0]);
        }
    }
}
