//! Without Tower: `authorize` and `on_response` over a bare hyper connection to the fake server.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::request::Builder;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_anyreach::RefusalReason;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{Answer, AnyreachAuthLayer, DenialReason, Error};

use support::{KEY, credential};

type Reply = Response<Incoming>;
const UNKNOWN: &str = "ak_unknown.c2VjcmV0";

/// A client of one connection, with the layer that authorizes its requests.
struct Client {
    anyreach: FakeAnyreach,
    auth: AnyreachAuthLayer,
    connection: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn with_key(key: &str) -> Self {
        let server = FakeAnyreach::builder().api_key(KEY, "org_acme", ["agents:read"]);
        let anyreach = server.start().await.unwrap();
        let port = anyreach.uri("/").port_u16().unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        Self {
            auth: AnyreachAuthLayer::new(credential(key)).origin(anyreach.origin()),
            anyreach,
            connection,
        }
    }

    /// Sends a request as hyper's connection takes it, with `Host` and the path alone.
    async fn exchange(&mut self, request: Builder) -> Result<(Answer, Reply), Error> {
        let (mut head, body) = request.body(Full::from("{}")).unwrap().into_parts();
        let authorized = self.auth.authorize(&mut head)?;
        let host = head.uri.authority().unwrap().as_str().parse().unwrap();
        head.headers.insert(HOST, host);
        head.uri = head.uri.path().parse().unwrap();
        let request = Request::from_parts(head, body);
        let response = self.connection.send_request(request).await;
        let response = response.map_err(|error| Error::Service(error.into()))?;
        let (status, headers) = (response.status(), response.headers());
        let answer = authorized.on_response(status, headers, response.extensions());
        Ok((answer, response))
    }

    /// The same, with denials and refused redirects as errors.
    async fn call(&mut self, request: Builder) -> Result<Reply, Error> {
        match self.exchange(request).await? {
            (Answer::Pass, response) => Ok(response),
            (Answer::Denied(unread), response) => Err(unread.read(response.into_body()).await),
            (Answer::Refused(refusal), _) => Err(Error::Refused(refusal)),
            (other, _) => panic!("{other:?}"),
        }
    }

    fn agents(&self) -> Uri {
        self.anyreach.uri("/core/agents")
    }
}

async fn bytes_of(response: Reply) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn requests_over_a_bare_connection_are_authenticated() {
    let mut client = Client::with_key(KEY).await;
    for _ in 0..2 {
        let response = client.call(Request::get(client.agents())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!bytes_of(response).await.is_empty());
    }
    let received = client.anyreach.received();
    assert_eq!((received.len(), client.anyreach.violations().len()), (2, 0));
    assert_eq!(
        received[1].headers()[AUTHORIZATION],
        format!("Bearer {KEY}")
    );
}

#[tokio::test]
async fn a_401_is_an_error_with_the_body_that_was_read() {
    let mut client = Client::with_key(UNKNOWN).await;
    let outcome = client.call(Request::get(client.agents())).await;
    let denial = support::denial(outcome);
    assert_eq!(denial.status(), 401);
    assert_eq!(denial.credential(), Some(credential(UNKNOWN).id()));
    assert!(denial.detail().is_some() && !denial.is_body_truncated());
}

#[tokio::test]
async fn a_403_is_an_error_with_the_body_that_the_client_read_by_itself() {
    let mut client = Client::with_key(KEY).await;
    let post = Request::post(client.agents());
    let (answer, response) = client.exchange(post).await.unwrap();
    let Answer::Denied(unread) = answer else {
        panic!("{answer:?}")
    };
    let body = bytes_of(response).await;
    let error = unread.with_body(body.clone(), true);
    assert!(error.is_forbidden());
    let denial = error.denial().unwrap();
    assert_eq!(denial.reason(), DenialReason::InsufficientScope);
    assert_eq!((denial.body(), denial.is_body_truncated()), (&body, false));
}

#[tokio::test]
async fn a_refused_request_is_not_sent_and_its_head_carries_nothing() {
    let mut client = Client::with_key(KEY).await;
    let other_port = Request::get("http://127.0.0.1:1/core/agents");
    let (mut head, ()) = other_port.body(()).unwrap().into_parts();
    let error = client.auth.authorize(&mut head).unwrap_err();
    assert_eq!(error.refusal().unwrap().reason(), RefusalReason::Authority);
    assert!(head.headers.is_empty());

    let foreign = Request::get("https://storage.example/");
    assert!(client.call(foreign).await.unwrap_err().is_refused());
    assert!(client.anyreach.received().is_empty());
}
