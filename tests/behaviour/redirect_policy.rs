//! What `RedirectPolicy` does by itself, where the layer does not see each hop or would not undo it.

use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_http::follow_redirect::FollowRedirect;

use crate::prelude::*;

const OURS: &str = "https://api.anyreach.ai/a";
const STORAGE: &str = "https://storage.example/a";

fn redirect(to: &str) -> Response<String> {
    answer_with(307, &[("location", to)], String::new())
}

#[tokio::test]
async fn a_host_that_another_client_asks_cannot_choose_a_request_at_the_origin() {
    for (start, next, reached) in [(STORAGE, OURS, 1), (OURS, STORAGE, 2)] {
        let (auth, hosts) = (layer(), Recorder::answering(redirect(OURS)));
        hosts.answer_next(redirect(next));
        let clients = (auth.layer(hosts.clone()), hosts.clone());
        let client = service_fn(move |request: Request<String>| {
            let (ours, other) = clients.clone();
            async move {
                match request.uri().host() {
                    Some("api.anyreach.ai") => ours.oneshot(request).await,
                    _ => Ok(other.oneshot(request).await.unwrap()),
                }
            }
        });
        let client = FollowRedirect::with_policy(client, RedirectPolicy::new(&auth));
        let error = client.oneshot(get(start)).await.unwrap_err();
        let reason = error.refusal().unwrap().reason();
        assert_eq!(reason, RefusalReason::ForeignRedirect);
        assert_eq!(hosts.take().len(), reached);
    }
}

#[tokio::test]
async fn a_request_that_leaves_its_scheme_host_or_port_loses_credentials_and_extensions() {
    let credentials = "authorization cookie proxy-authorization x-anyreach-org accept";
    let headers: Vec<_> = credentials.split(' ').map(|name| (name, "1")).collect();
    for (from, to, kept) in [
        ("https://api.anyreach.ai:443/a", OURS, 5),
        (OURS, STORAGE, 1),
        (STORAGE, "https://storage.example:443/b", 5),
        (STORAGE, "http://storage.example/", 1),
        ("http://storage.example:80/", "http://storage.example/b", 5),
        (STORAGE, "https://storage.example:8443/", 1),
        (STORAGE, "https://other.example/", 1),
    ] {
        let hosts = Recorder::default();
        hosts.answer_next(redirect(to));
        let client = FollowRedirect::with_policy(hosts.clone(), RedirectPolicy::new(&layer()));
        let request = with("an extension", with_headers(&headers, get(from)));
        client.oneshot(request).await.unwrap();
        let hop = &hosts.take()[1];
        assert_eq!(hop.headers.keys_len(), kept, "{from} {to}");
        assert_eq!(hop.extensions.get::<&str>().is_some(), kept == 5);
    }
}
