//! One request of a signed-in caller for a page.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::header::{HOST, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, Method};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use url::form_urlencoded;

use super::client::{Client, Problem};
use super::cookies::{SessionCookie, Theme};
use super::refusal::Refusal;
use super::trouble::Trouble;
use super::{Audience, Console};
use crate::access::callers::Caller;
use crate::access::sessions::{Session, SessionText};
use crate::bulk::{ByteShare, Payer};
use crate::call::{Peer, ReadBody};
use crate::error::{GatewayError, Level};
use crate::layers::body::{BadBody, BodyReader, Coding};
use crate::strict;

/// The outcome of a page.
pub(super) type Outcome = Result<Response, Trouble>;

/// The largest form without a file, in bytes.
const MOST_FORM: usize = 256 << 10;

/// The most fields of a form, and parameters of a query: the longest form of the console has some thirty.
const MOST_FIELDS: usize = 200;

/// One request of a signed-in caller.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) console: Arc<Console>,
    pub(super) client: Arc<Client>,
    pub(super) theme: Theme,
    pub(super) headers: HeaderMap,
    /// The path without what stands before `/console` in links.
    pub(super) path: String,
    session: SessionText,
    address: IpAddr,
    query: Arc<Fields>,
    params: Vec<(String, String)>,
    /// Taken by [`Visit::form`]. Behind a lock only because a body cannot be shared.
    body: Arc<Mutex<Option<Body>>>,
    /// The form that was sent, once it is read.
    sent: Arc<OnceLock<Arc<Fields>>>,
    /// Why the form was refused whose page this is.
    refusal: Option<Arc<Refusal>>,
}

/// A text as a part of a query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.trim().as_bytes()).collect()
}

/// The fields of a form, or the parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pairs: Vec<(String, String)>,
    /// The room that a form takes in memory.
    _share: Option<ByteShare>,
}

impl Fields {
    /// The fields of this text. Each is there once: of two the wrong one might count.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Trouble> {
        // Counted before any is read: in memory a field takes many times as much as in the text.
        if text.iter().filter(|byte| **byte == b'&').count() >= MOST_FIELDS {
            let told = format!("There are more than {MOST_FIELDS} fields in the form or the address.");
            return Err(Trouble::bad_request(told));
        }
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text).into_owned().collect();
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first)
        {
            let told = format!("The field '{}' is there twice.", strict::shown(twice));
            return Err(Trouble::bad_request(told));
        }
        Ok(Self { pairs, _share: None })
    }

    /// The value of a field; nothing if it was not filled in.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.sent(name).filter(|text| !text.trim().is_empty())
    }

    /// The value of a field as it is to be shown in the form again.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The value of a field that the form had, also of one that was not filled in.
    pub(super) fn sent(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The named parameters of a page as those of the call that it makes, behind others.
    pub(super) fn passed_on(&self, names: &[&str]) -> String {
        let given = names.iter().filter_map(|name| Some(format!("&{name}={}", encoded(self.get(name)?))));
        given.collect()
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the form has this field, filled in or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    pub(super) fn need(&self, name: &'static str) -> Result<&str, Trouble> {
        self.get(name).ok_or_else(|| Trouble::field(name, format!("The field '{name}' is empty.")))
    }

    /// These fields as a query, without those that are empty and without `but`.
    pub(super) fn query_without(&self, but: &[&str]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &self.pairs {
            if !value.trim().is_empty() && !but.contains(&name.as_str()) {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

impl Visit {
    /// The sessions of the visitor's credential, newest first.
    pub(super) async fn sessions(&self) -> Result<Vec<Session>, Trouble> {
        Ok(self.console.parts.authenticator.sessions(&self.session, self.address).await?)
    }

    /// Ends the other sessions of the visitor's credential.
    pub(super) async fn end_other_sessions(&self) -> Result<(), Trouble> {
        Ok(self.console.parts.authenticator.end_others(&self.session, self.address).await?)
    }

    /// What stands before `/console` in every link.
    pub(super) fn base(&self) -> &str {
        self.console.base()
    }

    /// A link to a place of this console, such as `/keys`.
    pub(super) fn link(&self, place: &str) -> String {
        format!("{}/console{place}", self.base())
    }

    pub(super) fn query(&self) -> &Fields {
        &self.query
    }

    /// The part of the path that the route names so, written as a part of a path or a query.
    pub(super) fn param(&self, name: &str) -> String {
        let value = self.params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
        self.escaped(value)
    }

    /// A text as a part of a path.
    pub(super) fn escaped(&self, text: &str) -> String {
        percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string().replace("%5F", "_").replace("%2D", "-")
    }

    pub(super) fn caller(&self) -> &Caller {
        self.client.signed_in().caller()
    }

    /// Whether the script asks, for a part of the page.
    pub(super) fn is_for_script(&self) -> bool {
        self.headers.contains_key("x-tollgate-part")
    }

    fn payer(&self) -> Payer {
        self.caller().org().map_or(Payer::Operators, Payer::Org)
    }

    /// Does what takes long for megabytes on a thread that serves nobody else.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let workers = &self.console.parts.bodies.bulk.workers;
        Ok(workers.run(self.payer(), size, work).await.map_err(GatewayError::from)?)
    }

    /// The fields of the form that was sent.
    pub(super) async fn form(&self) -> Result<Arc<Fields>, Trouble> {
        self.form_of(MOST_FORM).await
    }

    /// The fields of a form that may contain a file as a `data:` URI.
    pub(super) async fn form_of(&self, most: usize) -> Result<Arc<Fields>, Trouble> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let payer = self.payer();
        let reader = BodyReader { most, ..self.console.parts.bodies.clone() };
        let read = reader.read(body, Coding::Identity, payer).await.map_err(GatewayError::from)?;
        let ReadBody { bytes, share } = read;
        let fields = self.work(bytes.len(), move || Fields::parse(&bytes)).await??;
        let fields = Arc::new(Fields { _share: Some(share), ..fields });
        Ok(self.sent.get_or_init(|| fields).clone())
    }

    /// Why the form was refused whose page this is; nothing: the page was asked for by itself.
    pub(super) fn refusal(&self) -> Option<&Arc<Refusal>> {
        self.refusal.as_ref()
    }

    /// What was typed into the form that was refused, or else the parameters of the address.
    pub(super) fn filled(&self) -> Arc<Fields> {
        self.refusal().map_or_else(|| self.query.clone(), |refusal| refusal.fields().clone())
    }

    /// An idempotency key that is made with a form: however often the form is sent, it counts once.
    pub(super) fn form_key(&self) -> String {
        let kept = self.refusal().and_then(|refusal| refusal.key());
        kept.unwrap_or_else(|| format!("console-{}", uuid::Uuid::new_v4().simple()))
    }

    /// This visit for the page at `at`, which shows that its form was refused.
    fn after_refusal(mut self, at: &str, problem: Problem) -> Self {
        let place = self.path.strip_prefix("/console").unwrap_or_default().to_owned();
        let fields = self.sent.get().cloned().unwrap_or_default();
        self.path = self.path.split('/').take(at.split('/').count()).collect::<Vec<_>>().join("/");
        self.refusal = Some(Arc::new(Refusal::new(place, fields, problem)));
        self
    }
}

/// The address of the client of a request.
pub(super) fn address(console: &Console, head: &Parts) -> IpAddr {
    console.parts.proxies.client(Peer::of(&head.extensions).address, &head.headers)
}

/// The cookie that holds the session of a request.
pub(super) fn cookie(console: &Console, headers: &HeaderMap) -> SessionCookie {
    SessionCookie::of(console.parts.audience, headers, is_https(console))
}

/// The cookie that binds a sign-in at an identity provider to the browser.
pub(super) fn login_cookie(console: &Console, headers: &HeaderMap) -> SessionCookie {
    SessionCookie::of_login(headers, is_https(console))
}

/// Whether browsers reach the console by HTTPS.
fn is_https(console: &Console) -> bool {
    // Behind a proxy the host of a request may be the proxy's own name for this gateway.
    let public = console.parts.settings.public_url.as_ref();
    console.parts.https || public.is_some_and(|url| url.scheme() == "https")
}

/// A page that is only looked at.
pub(super) fn page<F, Fut>(page: F) -> MethodRouter<Arc<Console>, Infallible>
where
    F: Fn(Visit) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    get(move |State(console): State<Arc<Console>>, request: Request| {
        let page = page.clone();
        async move { answer(console, request, page).await }
    })
}

/// A page with its forms. The answer to a form that was refused is the page again, with what was typed and with the reason.
pub(super) struct Place<P> {
    at: &'static str,
    page: P,
    routes: Router<Arc<Console>>,
}

impl<P, Shown> Place<P>
where
    P: Fn(Visit) -> Shown + Clone + Send + Sync + 'static,
    Shown: Future<Output = Outcome> + Send + 'static,
{
    /// The page at this path.
    pub(super) fn new(at: &'static str, show: P) -> Self {
        Self { at, page: show.clone(), routes: Router::new().route(at, page(show)) }
    }

    /// A form that is sent to `below` the page.
    pub(super) fn form<F, Changed>(self, below: &str, change: F) -> Self
    where
        F: Fn(Visit) -> Changed + Clone + Send + Sync + 'static,
        Changed: Future<Output = Outcome> + Send + 'static,
    {
        let Self { at, page, routes } = self;
        let show = page.clone();
        let changing = post(move |State(console): State<Arc<Console>>, request: Request| {
            let (change, show) = (change.clone(), show.clone());
            async move {
                answer(console, request, move |visit| changed(visit, at, change.clone(), show.clone())).await
            }
        });
        Self { at, page, routes: routes.route(&format!("{at}{below}"), changing) }
    }

    pub(super) fn routes(self) -> Router<Arc<Console>> {
        self.routes
    }
}

/// Does what a form says, or shows its page again.
async fn changed<F, Changed, P, Shown>(visit: Visit, at: &'static str, change: F, show: P) -> Outcome
where
    F: Fn(Visit) -> Changed,
    Changed: Future<Output = Outcome>,
    P: Fn(Visit) -> Shown,
    Shown: Future<Output = Outcome>,
{
    let again = visit.clone();
    let refused = match Box::pin(change(visit)).await {
        Err(Trouble::Problem(problem)) => problem,
        other => return other,
    };
    let again = again.after_refusal(at, Problem::clone(&refused));
    let Ok(mut page) = Box::pin(show(again)).await else { return Err(Trouble::Problem(refused)) };
    *page.status_mut() = refused.status;
    if let Some(seconds) = refused.retry_after {
        page.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    Ok(page)
}

async fn answer<F, Fut>(console: Arc<Console>, request: Request, page: F) -> Response
where
    F: Fn(Visit) -> Fut + Send,
    Fut: Future<Output = Outcome> + Send,
{
    let bulk = console.parts.bodies.bulk.clone();
    match visit(console, request).await {
        Ok(visit) => {
            let payer = visit.payer();
            // Boxed: the future of a page with its calls is large.
            let answer = Box::pin(page(visit)).await.unwrap_or_else(IntoResponse::into_response);
            let held = bulk.held(payer, answer).await;
            held.unwrap_or_else(|| Trouble::from(GatewayError::from(BadBody::NoRoom)).into_response())
        }
        Err(trouble) => trouble.into_response(),
    }
}

/// Looks the session of a request up.
async fn visit(console: Arc<Console>, request: Request) -> Result<Visit, Trouble> {
    let (mut head, body) = request.into_parts();
    let place = head.uri.path_and_query().map_or("/console", |place| place.as_str());
    let back = if head.method == Method::GET { place.to_owned() } else { "/console".to_owned() };
    let ended = || Trouble::SignIn { back: back.clone() };
    strict::check_query(head.uri.query().unwrap_or_default()).map_err(GatewayError::from)?;
    let session = cookie(&console, &head.headers).read(&head.headers).ok_or_else(ended)?;
    let address = address(&console, &head);
    let signed_in = console.parts.authenticator.signed_in(&session, address).await;
    let signed_in = match signed_in {
        // Whose session has ended may sign in, however many wrong credentials its network has sent.
        Err(GatewayError::Unauthenticated(_) | GatewayError::RateLimited { level: Level::Address, .. }) => {
            return Err(ended());
        }
        other => other?,
    };
    let expected = match signed_in.caller() {
        Caller::Tenant(_) => Audience::Members,
        Caller::Operator(_) => Audience::Operators,
    };
    if expected != console.parts.audience {
        return Err(ended());
    }
    let peer = Peer::of(&head.extensions);
    peer.is_known(signed_in.caller().party()).await.map_err(|_| GatewayError::NoRoom)?;
    let params = RawPathParams::from_request_parts(&mut head, &()).await;
    let params = params.map_err(|_| Trouble::not_found("There is no page at this address."))?;
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Visit {
        client: Arc::new(Client::new(&console.parts.apis, signed_in, &head)),
        theme: Theme::of(&head.headers),
        path: head.uri.path().to_owned(),
        query: Arc::new(Fields::parse(head.uri.query().unwrap_or_default().as_bytes())?),
        headers: head.headers,
        session,
        address,
        params,
        body: Arc::new(Mutex::new(Some(body))),
        sent: Arc::default(),
        refusal: None,
        console,
    })
}

impl Visit {
    /// The URL under which a program calls this gateway: as configured, or as the browser has reached it.
    pub(super) fn public_url(&self) -> String {
        let parts = &self.console.parts;
        if let Some(url) = &parts.settings.public_url {
            return url.as_str().trim_end_matches('/').to_owned();
        }
        let mut hosts = self.headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        format!("{}://{host}", if parts.https { "https" } else { "http" })
    }
}
