//! The data plane's OpenAPI document: parameters, answers and error codes of each operation.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};
use utoipa::OpenApi as _;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AdditionalProperties, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Header, ObjectBuilder, OpenApi, RefOr, Response, ResponseBuilder, Schema,
};

use crate::docs_page;
use crate::wire::Code;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tollgate",
        description = "Create video tasks, which your organisation's credits pay for. A client of the video service's own API \
                       only has to change its base URL and its key.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        super::generate::generate,
        super::status::status,
        super::quote::quote,
        super::credits::credits,
        super::tasks::tasks,
        super::task::task,
        super::content::erase_content,
        super::prices::prices,
        super::me::me,
        crate::layers::route::healthz
    )
)]
struct Paths;

/// Codes of every operation that requires a credential.
const ANYWHERE: &[Code] = &[
    Code::InvalidRequest,
    Code::InvalidApiKey,
    Code::NetworkNotAllowed,
    Code::RateLimited,
    Code::InternalError,
    Code::Unavailable,
];

/// Codes of an operation with a create's body.
const BODY: &[Code] = &[
    Code::InvalidType,
    Code::InvalidPrompt,
    Code::InvalidDuration,
    Code::InvalidAspectRatio,
    Code::MissingImage,
    Code::TooManyImages,
    Code::MissingVideo,
    Code::InvalidCallback,
    Code::TypeNotAllowed,
    Code::BodyTooLarge,
];

/// Further codes of a create.
const CREATE: &[Code] = &[
    Code::InsufficientCredits,
    Code::BudgetExceeded,
    Code::Suspended,
    Code::RequestInProgress,
    Code::IdempotencyKeyReused,
    Code::TooManyTasks,
    Code::UpstreamError,
    Code::UpstreamUnavailable,
    Code::OutcomeUnknown,
];

/// The codes of an operation, besides [`ANYWHERE`].
fn codes(operation: &str) -> &'static [&'static [Code]] {
    match operation {
        "generate" => &[BODY, CREATE],
        "quote" => &[BODY],
        "status" | "task" => &[&[Code::TaskNotFound]],
        "tasks" => &[&[Code::Forbidden]],
        "erase_content" => &[&[Code::TaskNotFound, Code::Forbidden]],
        _ => &[],
    }
}

pub fn document() -> OpenApi {
    let mut document = Paths::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key, `tg_…`."));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    // Fields of tasks and creates that the gateway does not know are passed through.
    for open in ["TaskData", "CreateBody"] {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(open) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
        }
    }
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            let id = operation.operation_id.clone().unwrap_or_default();
            let responses = &mut operation.responses.responses;
            if id != "healthz" {
                operation.security = Some(vec![SecurityRequirement::new("bearer", [""; 0])]);
                for (status, codes) in by_status(codes(&id)) {
                    let vendors = id == "generate" && status == StatusCode::BAD_REQUEST;
                    responses.insert(status.as_u16().to_string(), RefOr::T(refusal(status, &codes, vendors)));
                }
                if codes(&id).contains(&BODY) {
                    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                    let refused = refusal(status, &[Code::InvalidRequest], false);
                    responses.insert(status.as_u16().to_string(), RefOr::T(refused));
                }
            }
            for (status, response) in responses {
                if let RefOr::T(response) = response {
                    response.headers.extend(headers(status, &id));
                }
            }
        }
    }
    docs_page::describe_bodies(&mut document);
    docs_page::give_examples(&mut document, |_, schema| match schema {
        "CreateBody" => create_examples().into(),
        _ => Vec::new(),
    });
    document
}

/// A create of each kind of task type. The first is the cheapest: many a tool sends the first as it stands.
fn create_examples() -> [(&'static str, Value); 6] {
    [
        (
            "Text to video, the cheapest",
            json!({"type": "o3-std-text-to-video", "prompt": "A paper boat on a pond", "duration": 3, "aspect_ratio": "16:9"}),
        ),
        (
            "Text to video",
            json!({
                "type": "pro-text-to-video", "prompt": "A cinematic shot of mountains at sunrise", "duration": 5,
                "aspect_ratio": "16:9", "sound": false, "cfg_scale": 0.5, "negative_prompt": "blurry, distorted",
            }),
        ),
        (
            "Image to video",
            json!({
                "type": "std-image-to-video", "prompt": "The character slowly turns and smiles", "duration": 5,
                "image": "https://example.com/first.jpg",
            }),
        ),
        (
            "First and last image",
            json!({
                "type": "o3-pro-image-to-video", "prompt": "The seasons change", "duration": 5,
                "image": "https://example.com/spring.jpg", "end_image": "https://example.com/winter.jpg",
            }),
        ),
        (
            "Reference to video",
            json!({
                "type": "o3-pro-reference-to-video", "prompt": "The character walks through a futuristic city", "duration": 5,
                "aspect_ratio": "9:16", "images": ["https://example.com/face.jpg", "https://example.com/coat.jpg"],
                "metadata": {"project": "city", "shot": "12"},
            }),
        ),
        (
            "Edit a video",
            json!({
                "type": "o3-std-video-edit", "prompt": "Change the background to a snowy mountain landscape",
                "video": "https://example.com/source.mp4", "keep_original_sound": true,
            }),
        ),
    ]
}

fn by_status(codes: &[&[Code]]) -> BTreeMap<StatusCode, Vec<Code>> {
    let mut by_status: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
    for code in codes.iter().copied().chain([ANYWHERE]).flatten() {
        by_status.entry(code.status()).or_default().push(*code);
    }
    by_status
}

fn refusal(status: StatusCode, codes: &[Code], vendors: bool) -> Response {
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let error = ObjectBuilder::new().schema_type(Type::String);
    let (error, description) = if vendors {
        (error, format!("{}, or a code of the video service", names.join(", ")))
    } else {
        (error.enum_values(Some(names.clone())), names.join(", "))
    };
    let code = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status.as_u16()]));
    let message = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    let data = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)));
    let schema = ObjectBuilder::new()
        .property("code", code)
        .required("code")
        .property("error", error)
        .required("error")
        .property("message", message.description(Some("What is wrong, and what would be right")))
        .required("message")
        .property("data", data.description(Some("Figures that belong to the error")));
    let content = ContentBuilder::new().schema(Some(Schema::from(schema))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

fn header(kind: Type, description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .description(Some(description))
        .build()
}

fn headers(status: &str, operation: &str) -> Vec<(String, RefOr<Header>)> {
    let mut headers =
        vec![("X-Request-Id", header(Type::String, "Id of this call; name it when you report a problem"))];
    if operation != "healthz" && status != "401" {
        headers.push((
            "RateLimit-Policy",
            header(Type::String, "The rate limit that is closest to being reached, if any applies"),
        ));
        headers.push((
            "RateLimit",
            header(Type::String, "How much of that limit is left, and when it is full again"),
        ));
    }
    if ["402", "409", "429", "503"].contains(&status) {
        headers.push(("Retry-After", header(Type::Integer, "Seconds to wait before a retry")));
    }
    if status == "415" {
        headers.push(("Accept-Encoding", header(Type::String, "The content codings that are understood")));
    }
    if status == "401" {
        headers.push(("WWW-Authenticate", header(Type::String, "`Bearer`")));
    }
    headers.into_iter().map(|(name, header)| (name.to_owned(), RefOr::T(header))).collect()
}
