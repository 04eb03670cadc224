//! The page that shows an OpenAPI document, with all of its scripts and styles: nothing is loaded from other hosts.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_swagger_ui::Config;

const AT: &str = "/docs";

/// The content security policy, under which the browser loads nothing from other hosts.
const ONLY_OURS: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

/// Gives each request body the description of its schema: tools that are made from a document show it beside the call.
pub fn describe_bodies(document: &mut OpenApi) {
    let schemas =
        document.components.as_ref().map(|components| components.schemas.clone()).unwrap_or_default();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for body in operations.into_iter().flatten().filter_map(|operation| operation.request_body.as_mut()) {
            let RefOr::T(body) = body else { continue };
            let schema = body.content.values().find_map(|content| match content {
                RefOr::T(content) => content.schema.as_ref(),
                RefOr::Ref(_) => None,
            });
            let schema = match schema {
                Some(RefOr::Ref(reference)) => {
                    reference.ref_location.rsplit('/').next().and_then(|name| schemas.get(name))
                }
                own => own,
            };
            let schema = serde_json::to_value(schema).unwrap_or_default();
            body.description = schema.get("description").and_then(Value::as_str).map(ToOwned::to_owned);
        }
    }
}

/// Whether `path` belongs to the page.
pub fn is_below(path: &str) -> bool {
    path.strip_prefix(AT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The file at `path`; nothing if there is no such file. The page shows the document at `/openapi.json`.
pub fn page(path: &str) -> Option<Response<Bytes>> {
    // The validator is another site.
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("/openapi.json").validator_url("none")));
    let mut answer = Response::new(Bytes::new());
    let file = path.strip_prefix(AT)?;
    let Some(file) = file.strip_prefix('/') else {
        *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
        answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/docs/"));
        return Some(answer);
    };
    // Made once: an answer that its client does not read must not cost another copy of the file.
    static FILES: LazyLock<Mutex<HashMap<String, (HeaderValue, Bytes)>>> = LazyLock::new(Mutex::default);
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let (content_type, bytes) = match files.get(file) {
        Some(known) => known.clone(),
        None => {
            let found = utoipa_swagger_ui::serve(file, CONFIG.clone()).ok().flatten()?;
            let content_type = HeaderValue::try_from(found.content_type).ok()?;
            let made = (content_type, Bytes::from(found.bytes.into_owned()));
            files.insert(file.to_owned(), made.clone());
            made
        }
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_SECURITY_POLICY, ONLY_OURS);
    *answer.body_mut() = bytes;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_nothing_from_elsewhere() {
        let text = |path| String::from_utf8(page(path).unwrap().into_body().to_vec()).unwrap();
        for path in ["/docs/", "/docs/index.html"] {
            let index = text(path);
            assert!(index.contains("swagger-ui-bundle.js"), "{index}");
            assert!(!index.contains("src=\"http") && !index.contains("href=\"http"), "{index}");
        }
        let start = text("/docs/swagger-initializer.js");
        assert!(start.contains("/openapi.json") && start.contains("\"validatorUrl\": \"none\""), "{start}");
        assert!(text("/docs/swagger-ui-bundle.js").len() > 100_000);
        assert_eq!(page("/docs").unwrap().headers()[LOCATION], "/docs/");
        assert!(page("/docs/../Cargo.toml").is_none() && page("/docs/nothing").is_none());
        assert!(is_below("/docs") && is_below("/docs/x") && !is_below("/docsx") && !is_below("/"));
    }
}
