//! A create's body: parsed, validated, priced, and written out for the vendor (contract, "Validation").

mod excerpt;
mod labels;
mod rules;

use std::sync::Arc;

use bytes::Bytes;
use utoipa::ToSchema;

pub use self::excerpt::{Excerpt, digest};
pub use self::labels::Labels;
pub use self::rules::{Need, TypeFields};

use crate::credits::PriceFactor;
use crate::pricing::{Price, PriceBook, Tariff};
use crate::strict::{self, BadJson};
use crate::wire::{Code, RawObject};

const MAX_PROMPT_CHARS: usize = 2_000;
const MAX_IMAGES: usize = 7;
/// The shortest video, in seconds.
pub const MIN_SECONDS: u8 = 3;
const MAX_SECONDS: u8 = 15;
const DEFAULT_SECONDS: u8 = 5;
const DEFAULT_SOUND: bool = true;
const ASPECT_RATIOS: [&str; 3] = ["16:9", "9:16", "1:1"];
const CALLBACK: &str = "callback_url";

/// The fields that decide on the price, or that the vendor must not see. No other field may be taken for one of them.
const DECISIVE: [&str; 4] = ["type", "duration", "sound", CALLBACK];

/// Why a create is refused, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub code: Code,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Invalid {
    fn request(message: String) -> Self {
        Self { code: Code::InvalidRequest, message }
    }
}

fn invalid<T>(code: Code, message: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { code, message: message.into() })
}

/// A create that has passed every check, with its price.
#[derive(Debug)]
pub struct Order {
    /// The vendor's task type.
    pub task_type: Arc<str>,
    pub price: Price,
    /// The body for the vendor: the caller's fields, and the defaults of those fields that the price depends on.
    pub body: Bytes,
    /// What the caller finds and counts its tasks by.
    pub labels: Labels,
}

/// The body of a create. The gateway checks these fields and passes all others through; `null` counts as absent.
// The example is the cheapest task that needs no image: many a tool sends an example as it stands.
#[derive(Debug, ToSchema)]
#[schema(example = json!({
    "type": "o3-std-text-to-video", "prompt": "A paper boat on a pond", "duration": 3, "aspect_ratio": "16:9"
}))]
pub struct CreateBody {
    /// One of the types in the price book in force, such as `pro-text-to-video`, `pro-image-to-video`,
    /// `std-text-to-video`, `std-image-to-video`, `o3-pro-text-to-video`, `o3-pro-image-to-video`,
    /// `o3-pro-reference-to-video`, `o3-pro-video-edit`, and the last four with `o3-std-`.
    #[schema(rename = "type", example = "o3-std-text-to-video")]
    pub task_type: String,
    /// Description of the video; must not be blank.
    #[schema(min_length = 1, max_length = 2000, pattern = r"\S", example = "A paper boat on a pond")]
    pub prompt: String,
    /// Length of the video in seconds; default 5. Ignored for `*-video-edit`. A string such as `"5"` is accepted too.
    #[schema(value_type = Option<u8>, minimum = 3, maximum = 15, example = 3)]
    pub duration: Option<u8>,
    /// Aspect ratio of the video: 16:9, 9:16 or 1:1.
    #[schema(pattern = "^(16:9|9:16|1:1)$")]
    pub aspect_ratio: Option<String>,
    /// URL or data URI of the first image; required for `*-image-to-video`.
    pub image: Option<String>,
    /// URLs or data URIs of reference images; `*-reference-to-video` requires `images` or `video`.
    #[schema(max_items = 7)]
    pub images: Option<Vec<String>>,
    /// URL of a video; required for `*-video-edit`.
    pub video: Option<String>,
    /// URL or data URI of the last image.
    pub end_image: Option<String>,
    /// Whether the video has sound; default true.
    pub sound: Option<bool>,
    /// Whether the original sound of `video` is kept.
    pub keep_original_sound: Option<bool>,
    /// How closely the video follows the prompt, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub cfg_scale: Option<f64>,
    /// Description of what the video must not show.
    pub negative_prompt: Option<String>,
    /// Not sent to the video service. Only `null` is accepted as long as the gateway has no webhook endpoints; the state of a
    /// task is shown by GET /api/status.
    #[schema(value_type = Option<String>, max_length = 0)]
    pub callback_url: Option<String>,
    /// Sent to the video service as it is. An object of at most 16 texts (names of up to 64 characters without `=`, values of 1 to 128
    /// characters) gives the task labels as well, as the header `X-Tollgate-Labels` does; anything else gives none.
    pub metadata: Option<serde_json::Value>,
}

/// A task as the video service describes it, but with the credits charged here. It may have more fields than these.
#[derive(Debug, ToSchema)]
pub struct TaskData {
    /// The id of the task, for status calls.
    pub task_id: String,
    /// `SUCCESS`: the video is ready. `FAILED`: the task has failed, and costs nothing. Anything else: the task is running.
    pub status: String,
    /// Credits that are held for the task, or were charged.
    pub consumed_credits: i64,
    /// The result, usually a list with the URL of the video; null until there is a result.
    #[schema(required = false)]
    pub response: Option<serde_json::Value>,
    #[schema(required = false)]
    pub error_message: Option<serde_json::Value>,
}

/// Whether a task type belongs to the backend `kling-o3`, otherwise to `kling-3.0`.
pub fn is_o3(task_type: &str) -> bool {
    task_type.starts_with("o3-")
}

/// Whether a task type edits a video. Its price cannot depend on `duration`, because the video has a length of its own.
pub fn is_video_edit(task_type: &str) -> bool {
    task_type.ends_with("-video-edit")
}

impl Order {
    /// Parses, validates and prices `body`. The error is that of the first failing row of the contract's table.
    pub fn parse(body: &[u8], book: &PriceBook, factor: PriceFactor) -> Result<Self, Invalid> {
        let refused = |refused: BadJson| Invalid::request(format!("the body: {refused}"));
        let text = strict::check_object(body).map_err(refused)?;
        let object = RawObject::read(text).map_err(|error| refused(error.into()))?;
        check_keys(&object)?;
        let (task_type, tariff) = known_type(&object, book)?;
        check_prompt(&object)?;
        let seconds = if is_video_edit(&task_type) { DEFAULT_SECONDS } else { duration(&object)? };
        check_aspect_ratio(&object)?;
        check_media(&object, &task_type)?;
        let sound = check_options(&object)?;
        check_callback(&object)?;
        // Never sent: the vendor would call the address itself, before anything is settled here.
        let object = object.without(CALLBACK);
        let labels = Labels::of_body(&object);

        let Some(price) = book.price(tariff, seconds, sound, factor) else {
            return invalid(Code::InvalidRequest, "the price of this request is out of range");
        };
        // The defaults that the price depends on are written out, because the vendor may change its defaults.
        let mut changes = Vec::new();
        if tariff.depends_on_duration() {
            changes.push(("duration", seconds.to_string()));
        }
        if tariff.depends_on_sound() {
            changes.push(("sound", sound.to_string()));
        }
        Ok(Self { task_type, price, body: object.with(&changes).into(), labels })
    }
}

/// Refuses a key that the vendor may take for one of [`DECISIVE`]: the vendor would make what was not priced.
fn check_keys(object: &RawObject<&str>) -> Result<(), Invalid> {
    let decisive = strict::Names::of(&DECISIVE);
    for key in object.keys() {
        if let Some(name) = decisive.mistaken_for(key) {
            let shown = strict::shown(key);
            return invalid(
                Code::InvalidRequest,
                format!(
                    "the field '{shown}' may be taken for '{name}': write '{name}', or leave the field out"
                ),
            );
        }
    }
    Ok(())
}

/// Refuses half of a surrogate pair in the value of `key`: it has no meaning, so the text could not be what was meant.
fn check_whole(object: &RawObject<&str>, key: &str, code: Code) -> Result<(), Invalid> {
    match object.get(key).and_then(strict::half_pair) {
        Some(half) => invalid(code, format!("'{key}' has {half}")),
        None => Ok(()),
    }
}

/// Where the vendor or the gateway should report to. As long as the gateway has no events, no address may be called.
fn check_callback(object: &RawObject<&str>) -> Result<(), Invalid> {
    if object.get(CALLBACK).is_none() {
        return Ok(());
    }
    invalid(
        Code::InvalidCallback,
        "'callback_url' must be below the address of a webhook endpoint of your organisation, and it has none: leave it out, \
         and ask GET /api/status for the state of the task",
    )
}

fn known_type(object: &RawObject<&str>, book: &PriceBook) -> Result<(Arc<str>, Tariff), Invalid> {
    check_whole(object, "type", Code::InvalidType)?;
    let known = || book.prices.keys().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    match object.string("type") {
        None => invalid(Code::InvalidType, format!("'type' must be one of: {}", known())),
        Some(text) => match book.prices.get_key_value(text.as_str()) {
            Some((name, tariff)) => Ok((name.clone(), *tariff)),
            None => {
                let shown: String = text.chars().take(64).collect();
                invalid(Code::InvalidType, format!("'type' is '{shown}', which is not one of: {}", known()))
            }
        },
    }
}

fn check_prompt(object: &RawObject<&str>) -> Result<(), Invalid> {
    check_whole(object, "prompt", Code::InvalidPrompt)?;
    match object.string("prompt") {
        None => invalid(Code::InvalidPrompt, "'prompt' must be a string of 1 to 2000 characters"),
        Some(prompt) if prompt.trim().is_empty() => {
            invalid(Code::InvalidPrompt, "'prompt' must not be blank")
        }
        Some(prompt) => match prompt.chars().count() {
            0..=MAX_PROMPT_CHARS => Ok(()),
            count => invalid(
                Code::InvalidPrompt,
                format!("'prompt' has {count} characters; at most 2000 are allowed"),
            ),
        },
    }
}

fn duration(object: &RawObject<&str>) -> Result<u8, Invalid> {
    let Some(text) = object.get("duration") else { return Ok(DEFAULT_SECONDS) };
    // Clients send "5" and 5.0 today, so both are accepted.
    let quoted = object.string("duration");
    let text = quoted.as_deref().unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let zeros = !fraction.is_empty() && fraction.bytes().all(|b| b == b'0');
    let digits = !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit());
    match whole.parse::<u8>() {
        Ok(seconds @ MIN_SECONDS..=MAX_SECONDS) if zeros && digits => Ok(seconds),
        _ => {
            let shown: String = text.chars().take(32).collect();
            invalid(
                Code::InvalidDuration,
                format!("'duration' is {shown}; it must be a whole number from 3 to 15"),
            )
        }
    }
}

fn check_aspect_ratio(object: &RawObject<&str>) -> Result<(), Invalid> {
    if object.get("aspect_ratio").is_none() {
        return Ok(());
    }
    match object.string("aspect_ratio").as_deref() {
        Some(ratio) if ASPECT_RATIOS.contains(&ratio) => Ok(()),
        _ => invalid(Code::InvalidAspectRatio, "'aspect_ratio' must be 16:9, 9:16 or 1:1"),
    }
}

fn has_text(object: &RawObject<&str>, key: &str) -> bool {
    object.string(key).is_some_and(|text| !text.trim().is_empty())
}

#[expect(clippy::disallowed_methods, reason = "a list of texts has no keys")]
fn check_media(object: &RawObject<&str>, task_type: &str) -> Result<(), Invalid> {
    for (key, code) in
        [("image", Code::MissingImage), ("images", Code::MissingImage), ("video", Code::MissingVideo)]
    {
        check_whole(object, key, code)?;
    }
    if task_type.ends_with("-image-to-video") && !has_text(object, "image") {
        let hint = if object.get("image_url").is_some() {
            "; you sent 'image_url', the field is called 'image'"
        } else {
            ""
        };
        return invalid(Code::MissingImage, format!("'image' must be the URL or data URI of an image{hint}"));
    }
    if task_type.ends_with("-reference-to-video") {
        let images = object.get("images").map(serde_json::from_str::<Vec<String>>);
        match images {
            Some(Err(_)) => {
                return invalid(Code::MissingImage, "'images' must be a list of URLs or data URIs");
            }
            Some(Ok(images)) if images.len() > MAX_IMAGES => {
                return invalid(
                    Code::TooManyImages,
                    format!("'images' has {} entries; at most 7 are allowed", images.len()),
                );
            }
            Some(Ok(images)) if images.iter().any(|image| image.trim().is_empty()) => {
                return invalid(Code::MissingImage, "'images' has an empty entry");
            }
            Some(Ok(images)) if !images.is_empty() => {}
            _ if has_text(object, "video") => {}
            _ => return invalid(Code::MissingImage, "one of 'images' and 'video' is needed"),
        }
    }
    if is_video_edit(task_type) && !has_text(object, "video") {
        return invalid(Code::MissingVideo, "'video' must be the URL of the video to edit");
    }
    Ok(())
}

/// Checks the optional fields. Returns whether the video has sound.
#[expect(clippy::disallowed_methods, reason = "a number has no keys")]
fn check_options(object: &RawObject<&str>) -> Result<bool, Invalid> {
    if let Some(text) = object.get("cfg_scale") {
        let in_range = serde_json::from_str::<f64>(text).is_ok_and(|scale| (0.0..=1.0).contains(&scale));
        if !in_range {
            return invalid(Code::InvalidRequest, "'cfg_scale' must be a number from 0 to 1");
        }
    }
    let mut sound = DEFAULT_SOUND;
    for key in ["sound", "keep_original_sound"] {
        match object.get(key) {
            None => {}
            Some("true") if key == "sound" => sound = true,
            Some("false") if key == "sound" => sound = false,
            Some("true" | "false") => {}
            Some(_) => return invalid(Code::InvalidRequest, format!("'{key}' must be true or false")),
        }
    }
    for key in ["end_image", "negative_prompt"] {
        check_whole(object, key, Code::InvalidRequest)?;
        if object.get(key).is_some() && object.string(key).is_none() {
            return invalid(Code::InvalidRequest, format!("'{key}' must be a string"));
        }
    }
    Ok(sound)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::credits::Credits;
    use crate::pricing::BookVersion;

    fn book() -> PriceBook {
        let second = |credits, audio: Option<i64>| Tariff::Second {
            credits: Credits::new(credits),
            credits_with_audio: audio.map(Credits::new),
        };
        let prices: BTreeMap<Arc<str>, Tariff> = [
            ("pro-text-to-video", second(54, Some(80))),
            ("pro-image-to-video", second(54, Some(80))),
            ("o3-pro-text-to-video", second(48, None)),
            ("o3-pro-reference-to-video", second(72, None)),
            ("o3-pro-video-edit", Tariff::Fixed { credits: Credits::new(435) }),
        ]
        .map(|(name, tariff)| (name.into(), tariff))
        .into();
        PriceBook { version: BookVersion::new(1), name: "test".into(), prices }
    }

    fn parse(body: &str) -> Result<Order, Invalid> {
        Order::parse(body.as_bytes(), &book(), PriceFactor::LIST)
    }

    fn code(body: &str) -> &'static str {
        parse(body).err().map_or("ok", |invalid| invalid.code.as_str())
    }

    /// A text-to-video body with `fields` behind the required ones.
    fn with(fields: &str) -> String {
        format!(r#"{{"type":"pro-text-to-video","prompt":"x"{fields}}}"#)
    }

    #[test]
    fn defaults_are_written_out_where_they_are_priced() {
        let order = parse(&with("")).unwrap();
        assert_eq!(order.body, r#"{"type":"pro-text-to-video","prompt":"x","duration":5,"sound":true}"#);
        assert_eq!(order.price.hold, Credits::new(400));
        let order = parse(r#"{"duration":null,"type":"o3-pro-text-to-video","prompt":"x","cfg_scale":0.50}"#)
            .unwrap();
        assert_eq!(
            order.body,
            r#"{"duration":5,"type":"o3-pro-text-to-video","prompt":"x","cfg_scale":0.50}"#
        );
        let edit = r#"{"type":"o3-pro-video-edit","prompt":"x","video":"u","duration":"auto"}"#;
        assert_eq!(parse(edit).unwrap().body, edit, "a fixed price looks at neither duration nor sound");
    }

    #[test]
    fn durations() {
        for good in ["5", "\"5\"", "5.0", "15", "3.00", "\"15.0\""] {
            assert_eq!(code(&with(&format!(r#","duration":{good}"#))), "ok", "{good}");
        }
        for bad in [
            "2", "16", "5.5", "\"\"", "\"five\"", "-5", "5e0", "true", "[5]", "{}", "1e400", "\"+5\"",
            "\" 5\"", "255", "256",
        ] {
            assert_eq!(code(&with(&format!(r#","duration":{bad}"#))), "INVALID_DURATION", "{bad}");
        }
    }

    #[test]
    fn the_first_failing_row_wins() {
        assert_eq!(code("[]"), "INVALID_REQUEST");
        assert_eq!(code("\u{feff}{}"), "INVALID_REQUEST");
        assert_eq!(code(r#"{"type":"a","type":"b"}"#), "INVALID_REQUEST");
        assert_eq!(code("{}"), "INVALID_TYPE");
        assert_eq!(code(r#"{"type":5}"#), "INVALID_TYPE");
        assert_eq!(code(r#"{"type":"pro-text-to-video","duration":99}"#), "INVALID_PROMPT");
        assert_eq!(code(&with(r#","duration":99,"aspect_ratio":"4:3""#)), "INVALID_DURATION");
        assert_eq!(code(&with(r#","aspect_ratio":"4:3","sound":"x""#)), "INVALID_ASPECT_RATIO");
        assert_eq!(code(&with(r#","sound":"x""#)), "INVALID_REQUEST");
        assert_eq!(code(&with(r#","cfg_scale":1.01"#)), "INVALID_REQUEST");
        assert_eq!(code(&with(r#","negative_prompt":["x"]"#)), "INVALID_REQUEST");
        assert_eq!(code(&with(r#","keep_original_sound":1"#)), "INVALID_REQUEST");
    }

    #[test]
    fn prompts_are_counted_in_characters() {
        let body = |prompt: &str| format!(r#"{{"type":"pro-text-to-video","prompt":"{prompt}"}}"#);
        assert_eq!(code(&body(&"🦅".repeat(2000))), "ok");
        assert_eq!(code(&body(&"🦅".repeat(2001))), "INVALID_PROMPT");
        assert_eq!(code(&body(" \\n\\t ")), "INVALID_PROMPT");
        assert_eq!(code(&body("\\ud800")), "INVALID_PROMPT");
    }

    #[test]
    fn half_an_emoji_is_called_that_wherever_a_text_is_read() {
        let said = |body: &str| parse(body).unwrap_err().message;
        let prompt = said(r#"{"type":"pro-text-to-video","prompt":"eagle \ud83d"}"#);
        assert!(prompt.contains("surrogate pair (\\ud83d) at character 7"), "{prompt}");
        for field in [
            r#""end_image":"\ud83d""#,
            r#""negative_prompt":"\udc4d""#,
            r#""image":"\ud83dx""#,
            r#""images":["\ud83d"]"#,
        ] {
            assert!(said(&with(&format!(",{field}"))).contains("half of a surrogate pair"), "{field}");
        }
        assert!(said(r#"{"type":"\ud83d","prompt":"x"}"#).contains("half of a surrogate pair"));
        assert!(said(r#"{"\ud83d":1}"#).contains("half of a surrogate pair"));
        assert_eq!(code(&with(r#","watermark":"\ud83d""#)), "ok", "unknown fields pass through untouched");
    }

    #[test]
    fn no_field_may_be_taken_for_one_that_is_priced() {
        for key in
            ["Duration", "duration\\u0000", "ſound", "TYPE", "dura\u{200b}tion", " sound", "Callback_URL"]
        {
            let refused = parse(&with(&format!(r#","duration":3,"{key}":15"#))).unwrap_err();
            assert_eq!(refused.code, Code::InvalidRequest, "{key}");
            assert!(refused.message.contains("may be taken for"), "{key}: {}", refused.message);
        }
        assert_eq!(code(&with(r#","Prompt":1,"nested":{"Duration":15},"durations":1"#)), "ok");
    }

    #[test]
    fn a_callback_is_refused_and_never_sent() {
        for value in ["\"https://example.com/hook\"", "5", "\"\"", "[]"] {
            assert_eq!(code(&with(&format!(r#","callback_url":{value}"#))), "INVALID_CALLBACK", "{value}");
        }
        assert_eq!(
            code(&with(r#","callback_url":"x","sound":5"#)),
            "INVALID_REQUEST",
            "other rows come first"
        );
        let order = parse(&with(r#","callback_url":null,"x":null"#)).unwrap();
        let sent = String::from_utf8_lossy(&order.body).into_owned();
        assert!(!sent.contains("callback_url") && sent.contains(r#""x":null"#), "{sent}");
    }

    #[test]
    fn media() {
        let image = |rest: &str| format!(r#"{{"type":"pro-image-to-video","prompt":"x"{rest}}}"#);
        assert_eq!(code(&image(r#","image":"data:image/png;base64,AA==""#)), "ok");
        assert_eq!(code(&image(r#","image":"""#)), "MISSING_IMAGE");
        assert!(
            parse(&image(r#","image_url":"u""#)).unwrap_err().message.contains("the field is called 'image'")
        );
        let reference = |rest: &str| format!(r#"{{"type":"o3-pro-reference-to-video","prompt":"x"{rest}}}"#);
        assert_eq!(code(&reference(r#","images":["a"]"#)), "ok");
        assert_eq!(code(&reference(r#","video":"a""#)), "ok");
        assert_eq!(code(&reference(r#","images":[],"video":"a""#)), "ok");
        assert_eq!(code(&reference(r#","images":[]"#)), "MISSING_IMAGE");
        assert_eq!(code(&reference(r#","images":"a""#)), "MISSING_IMAGE");
        assert_eq!(code(&reference(r#","images":["1","2","3","4","5","6","7","8"]"#)), "TOO_MANY_IMAGES");
        assert_eq!(code(r#"{"type":"o3-pro-video-edit","prompt":"x"}"#), "MISSING_VIDEO");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Order::parse(&body, &book(), PriceFactor::LIST);
        }

        #[test]
        fn unknown_fields_pass_untouched(number in "-?[1-9][0-9]{0,20}(\\.[0-9]{1,9})?", text in "\\PC{0,40}") {
            let field = format!(r#","x":{number},"watermark":{}"#, serde_json::to_string(&text).unwrap());
            prop_assert!(String::from_utf8(parse(&with(&field)).unwrap().body.to_vec()).unwrap().contains(&field));
        }
    }
}
