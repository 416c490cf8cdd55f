//! The laws of `campaigns/tests/properties`, one function for each fuzz target.

#[path = "../../campaigns/tests/properties/laws/mod.rs"]
mod laws;

macro_rules! laws {
    ($($law:ident)*) => {
        $(
            #[doc = concat!("Asserts `", stringify!($law), "` of these bytes.")]
            pub fn $law(bytes: &[u8]) {
                laws::$law(bytes);
            }
        )*
    };
}

laws! {
    credential_text
    organization_text
    origin_uri
    challenge
    error_json
    error_body_streaming
    file_bytes
}
