//! A create's body: parsed, validated, priced, and written out for the vendor (contract, "Validation").

mod checks;
mod described;
mod excerpt;
mod labels;
mod rules;

use std::sync::Arc;

use bytes::Bytes;

pub use self::described::{CreateBody, TaskData};
pub use self::excerpt::{Excerpt, digest};
pub use self::labels::Labels;
pub use self::rules::{Need, TypeFields};

use self::checks::{
    CALLBACK, check_aspect_ratio, check_callback, check_keys, check_media, check_options, check_prompt,
    duration, known_type,
};
use crate::credits::PriceFactor;
use crate::pricing::{Price, PriceBook};
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::credits::Credits;
    use crate::pricing::{BookVersion, Tariff};

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
