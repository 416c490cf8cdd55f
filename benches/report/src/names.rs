//! What contenders and cases are called in a picture, and how numbers are written.

/// The service without a layer, which the others are net of.
pub(crate) const BARE: &str = "bare";
/// The contender that others are measured by.
pub(crate) const BY_HAND: &str = "by_hand";

/// Whether the contender is this crate.
pub(crate) fn is_ours(contender: &str) -> bool {
    contender.starts_with("anyreach") || contender == "with_layer"
}

/// What a contender is called; unknown ones by their own name.
pub(crate) fn contender(name: &str) -> String {
    match name {
        BARE => "no layer",
        BY_HAND => "two inserts by hand",
        "anyreach_pat" => "tower-anyreach, access token",
        "anyreach_ak" => "tower-anyreach, API key",
        "tower_http" => "tower-http",
        "tower_http_classified" => "tower-http, denials classified",
        "map_request" => "map_request",
        "map_request_formatting" => "map_request, formatting",
        "boxed_async" => "boxed async middleware",
        "kube_client" => "kube-client",
        "with_layer" => "with the layer",
        "without_layer" => "without the layer",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// What a case is called; unknown ones by their own name.
pub(crate) fn case(name: &str) -> String {
    match name {
        "no_headers" => "a request without headers",
        "eight_headers" => "a request with eight headers",
        "no_headers_401" => "a request without headers, answered by a 401",
        "eight_headers_401" => "a request with eight headers, answered by a 401",
        "service_clone" => "one clone of the service",
        "call_shared" => "one service, called by every thread",
        "clone_per_request" => "one service, cloned for each request",
        "clones_first_call" => "clones, at their first call",
        "http1" => "HTTP/1.1",
        "http2" => "HTTP/2",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// What a suite is called; unknown ones by their own name.
pub(crate) fn suite(name: &str) -> String {
    match name {
        "overhead" => "Overhead",
        "clone" => "Clone",
        "threads" => "Threads",
        "growth" => "Growth",
        "growth_time" => "Growth, in time",
        "trip" => "Round trip",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// The heading of a metric's column; unknown ones by their own name.
pub(crate) fn metric(name: &str) -> String {
    match name {
        "ns_net" => "ns",
        "ns_over_by_hand" => "ns × by hand",
        "instructions_net" => "instructions",
        "instructions_over_by_hand" => "instructions × by hand",
        "ns_own" => "ns, own",
        "ns_shared" => "ns, shared",
        "shared_over_own" => "shared / own",
        "requests_per_second" => "requests/s",
        "p50_us" => "p50, µs",
        "p99_us" => "p99, µs",
        "cpu_us_per_request" => "CPU µs/request",
        "request_bytes" => "bytes/request",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// A value of this metric as people read it: a ratio as `1.38`, a count as `1,161`, a time as `56.2` or `167`.
pub(crate) fn value(metric: &str, value: f64) -> String {
    match metric {
        "instructions_net" | "requests_per_second" | "request_bytes" => thousands(value),
        _ if metric.contains("_over_") => format!("{value:.2}"),
        _ if value.abs() < 100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

/// A number on an axis: as it is while it is small, for there it may be a fraction.
pub(crate) fn tick(value: f64) -> String {
    if value.abs() < 1000.0 {
        value.to_string()
    } else {
        thousands(value)
    }
}

/// A whole number, its digits in groups of three.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_what_matters() {
        for (metric, number, text) in [
            ("ns_over_by_hand", 1.384, "1.38"),
            ("shared_over_own", 12.0, "12.00"),
            ("instructions_net", 17.0, "17"),
            ("instructions_net", 1161.4, "1,161"),
            ("requests_per_second", 1_234_567.0, "1,234,567"),
            ("ns_net", -3.21, "-3.2"),
            ("ns_net", 56.24, "56.2"),
            ("p99_us", -123_456.0, "-123,456"),
        ] {
            assert_eq!(value(metric, number), text);
        }
    }

    #[test]
    fn ticks_keep_their_fraction() {
        for (number, text) in [(0.0, "0"), (0.5, "0.5"), (500.0, "500"), (1500.0, "1,500")] {
            assert_eq!(tick(number), text);
        }
    }
}
