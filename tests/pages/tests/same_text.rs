//! The page on clients shows two examples whole, and an example is tested more than a page: their texts are the same.

const PAGE: &str = include_str!("../../../docs/clients.md");

#[test]
fn the_page_on_clients_shows_the_examples_as_they_are() {
    for (name, example) in [
        (
            "src/lib.rs",
            include_str!("../../../examples/axum_gateway/src/lib.rs"),
        ),
        (
            "src/main.rs",
            include_str!("../../../examples/axum_gateway/src/main.rs"),
        ),
        (
            "src/anyreach_middleware.rs",
            include_str!("../../../examples/reqwest_middleware/src/lib.rs"),
        ),
    ] {
        assert!(
            PAGE.contains(&format!("```rust,ignore\n{example}```\n")),
            "docs/clients.md shows another {name} than the example has"
        );
    }
}
