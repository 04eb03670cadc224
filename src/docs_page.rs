//! The page that shows an OpenAPI document, with all of its scripts and styles: nothing is loaded from other hosts.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;
use utoipa::openapi::example::ExampleBuilder;
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

/// Gives request bodies their examples: `of` knows those of an operation, each with its name, by the operation's id and the name of
/// the body's schema.
pub fn give_examples(document: &mut OpenApi, of: impl Fn(&str, &str) -> Vec<(&'static str, Value)>) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let id = operation.operation_id.clone().unwrap_or_default();
            let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
            for content in body.content.values_mut() {
                let RefOr::T(content) = content else { continue };
                let schema = match &content.schema {
                    Some(RefOr::Ref(schema)) => schema.ref_location.rsplit('/').next().unwrap_or_default(),
                    _ => "",
                };
                let mut examples = of(&id, schema);
                if examples.len() == 1 {
                    content.example = examples.pop().map(|(_, value)| value);
                    continue;
                }
                for (name, value) in examples {
                    let example = ExampleBuilder::new().summary(name).value(Some(value)).build();
                    content.examples.insert(name.replace(' ', "-").to_lowercase(), RefOr::T(example));
                }
            }
        }
    }
}

/// The two APIs that the page shows, each on its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    DataPlane,
    Management,
}

impl Shown {
    const fn title(self) -> &'static str {
        match self {
            Self::DataPlane => "Tollgate API",
            Self::Management => "Tollgate management API",
        }
    }

    /// What stands above the operations.
    const fn note(self) -> &'static str {
        match self {
            Self::DataPlane => {
                "Calls that only read can be sent from this page, and so can quotes. Creates cost credits: this page does not \
                 send them. <a id=\"console\" href=\"../console/playground\">The playground shows the price first.</a>"
            }
            Self::Management => {
                "Calls that only read can be sent from this page. What changes something is not sent from here: use \
                 <code>tollgate admin</code>. <a id=\"console\" href=\"../console\">The console has forms for it.</a>"
            }
        }
    }

    /// Calls that change nothing although they are no `GET`: a JavaScript list of methods with paths.
    const fn harmless(self) -> &'static str {
        match self {
            Self::DataPlane => r#"["post /api/quote"]"#,
            Self::Management => "[]",
        }
    }

    /// The first page, of the one that comes with the bundle.
    fn index(self, bundled: &str) -> String {
        let note = format!(
            "<p style=\"max-width:1420px;margin:24px auto 0;padding:0 20px;font:16px/1.5 sans-serif\">{}</p>\n    <div id=\"swagger-ui\">",
            self.note()
        );
        bundled
            .replace("<title>Swagger UI</title>", &format!("<title>{}</title>", self.title()))
            .replace("<div id=\"swagger-ui\">", &note)
    }

    /// Starts the page. Links are relative, so that they work below a path of a proxy as well.
    fn initializer(self) -> String {
        let harmless = self.harmless();
        format!(
            r##"// Only what changes nothing can be executed from this page.
const harmless = {harmless};
const reads = () => ({{
  statePlugins: {{
    spec: {{
      wrapSelectors: {{
        allowTryItOutFor: () => (state, path, method) => method === "get" || harmless.includes(`${{method}} ${{path}}`),
      }},
    }},
  }},
}});

window.onload = () => {{
  window.ui = SwaggerUIBundle({{
    url: "../openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: "none",
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [reads],
    layout: "BaseLayout",
  }});
  // The console may be switched off.
  const link = document.getElementById("console");
  fetch("../console/sign-in", {{ method: "HEAD" }}).then((answer) => {{ if (answer.status === 404) link.remove(); }});
}};
"##
        )
    }
}

/// The file at `path` of the page that shows an API; nothing if there is no such file. The document is at `/openapi.json`.
pub fn page(shown: Shown, path: &str) -> Option<Response<Bytes>> {
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
    static FILES: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let own = matches!(file, "" | "index.html" | "swagger-initializer.js").then_some(shown);
    let (content_type, bytes) = match files.get(&(own, file.to_owned())) {
        Some(known) => known.clone(),
        None => {
            let found = utoipa_swagger_ui::serve(file, CONFIG.clone()).ok().flatten()?;
            let content_type = HeaderValue::try_from(found.content_type).ok()?;
            let bytes = match file {
                "" | "index.html" => shown.index(&String::from_utf8_lossy(&found.bytes)).into(),
                "swagger-initializer.js" => shown.initializer().into(),
                _ => Bytes::from(found.bytes.into_owned()),
            };
            let made = (content_type, bytes);
            files.insert((own, file.to_owned()), made.clone());
            made
        }
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_SECURITY_POLICY, ONLY_OURS);
    *answer.body_mut() = bytes;
    Some(answer)
}

/// The files of the page, by name; those that differ, by what the page shows as well.
type Files = HashMap<(Option<Shown>, String), (HeaderValue, Bytes)>;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shown: Shown, path: &str) -> String {
        String::from_utf8(page(shown, path).unwrap().into_body().to_vec()).unwrap()
    }

    #[test]
    fn the_page_names_nothing_from_elsewhere() {
        for (shown, title) in
            [(Shown::DataPlane, "Tollgate API"), (Shown::Management, "Tollgate management API")]
        {
            for path in ["/docs/", "/docs/index.html"] {
                let index = text(shown, path);
                assert!(index.contains("swagger-ui-bundle.js") && index.contains("../console"), "{index}");
                assert!(index.contains(&format!("<title>{title}</title>")), "{index}");
                assert!(!index.contains("src=\"http") && !index.contains("href=\"http"), "{index}");
            }
            let start = text(shown, "/docs/swagger-initializer.js");
            assert!(
                start.contains("\"../openapi.json\"") && start.contains("validatorUrl: \"none\""),
                "{start}"
            );
        }
        assert!(text(Shown::DataPlane, "/docs/swagger-ui-bundle.js").len() > 100_000);
        let page = |path| page(Shown::DataPlane, path);
        assert_eq!(page("/docs").unwrap().headers()[LOCATION], "/docs/");
        assert!(page("/docs/../Cargo.toml").is_none() && page("/docs/nothing").is_none());
        assert!(is_below("/docs") && is_below("/docs/x") && !is_below("/docsx") && !is_below("/"));
    }

    #[test]
    fn only_what_changes_nothing_can_be_executed() {
        // The bundle asks the selector that the page replaces.
        assert!(text(Shown::DataPlane, "/docs/swagger-ui-bundle.js").contains("allowTryItOutFor"));
        for shown in [Shown::DataPlane, Shown::Management] {
            let start = text(shown, "/docs/swagger-initializer.js");
            assert!(start.contains("allowTryItOutFor") && !start.contains("post /api/generate"), "{start}");
        }
        assert!(text(Shown::DataPlane, "/docs/swagger-initializer.js").contains("post /api/quote"));
    }
}
