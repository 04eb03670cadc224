//! Reading and judging the body of a create.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::product::{Product, RequiredInput};

/// A body as it arrived, not validated yet. Fault rules match on this, so that a rule can apply to a create that the
/// vendor would have refused.
pub(super) struct Draft<'a> {
    whole: Option<&'a RawValue>,
    // Fields stay unparsed, so that an image of 16 MiB is never copied.
    fields: BTreeMap<String, &'a RawValue>,
}

/// A create that the vendor accepts.
#[derive(Debug)]
pub(super) struct ValidCreate<'a> {
    pub(super) product: &'static Product,
    pub(super) credits: i64,
    pub(super) body: &'a RawValue,
}

/// A create that the vendor refuses with 400.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) error: &'static str,
    pub(super) message: &'static str,
}

const fn refuse<T>(error: &'static str, message: &'static str) -> Result<T, Rejection> {
    Err(Rejection { error, message })
}

impl<'a> Draft<'a> {
    pub(super) fn read(body: &'a [u8]) -> Draft<'a> {
        let whole: Option<&RawValue> = serde_json::from_slice(body).ok();
        let fields = whole.and_then(|json| serde_json::from_str(json.get()).ok());
        Draft { whole: whole.filter(|_| fields.is_some()), fields: fields.unwrap_or_default() }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.fields.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// Judges the body in the vendor's order; the first complaint wins.
    pub(super) fn check(&self) -> Result<ValidCreate<'a>, Rejection> {
        let Some(body) = self.whole else {
            return refuse("INVALID_REQUEST", "The request body must be a JSON object");
        };
        let Some(product) = self.text("type").and_then(|name| Product::find(&name)) else {
            return refuse("INVALID_TYPE", "Unsupported task type");
        };
        self.check_prompt()?;
        let seconds = if product.has_duration() { self.duration()? } else { 0 };
        self.check_source(product)?;
        Ok(ValidCreate { product, credits: product.credits(seconds, self.sound()?), body })
    }

    fn check_prompt(&self) -> Result<(), Rejection> {
        let prompt = self.text("prompt").unwrap_or_default();
        if prompt.trim().is_empty() {
            return refuse("INVALID_PROMPT", "Prompt is missing or empty");
        }
        if prompt.chars().count() > 2000 {
            return refuse("INVALID_PROMPT", "Prompt is longer than 2000 characters");
        }
        Ok(())
    }

    /// `"5"` and `5.0` count as 5: real clients send both and the vendor takes them.
    fn duration(&self) -> Result<i64, Rejection> {
        let seconds = match self.value("duration") {
            None => Some(5),
            Some(Value::Number(number)) => number.as_i64().or_else(|| {
                let whole = number.as_f64().filter(|seconds| seconds.fract() == 0.0)?;
                (3..=15_i32).find(|seconds| f64::from(*seconds) == whole).map(i64::from)
            }),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match seconds {
            Some(seconds @ 3..=15) => Ok(seconds),
            _ => refuse("INVALID_DURATION", "Duration must be an integer from 3 to 15"),
        }
    }

    fn sound(&self) -> Result<bool, Rejection> {
        match self.value("sound") {
            None => Ok(true),
            Some(Value::Bool(sound)) => Ok(sound),
            Some(_) => refuse("INVALID_REQUEST", "sound must be true or false"),
        }
    }

    fn check_source(&self, product: &Product) -> Result<(), Rejection> {
        match product.source {
            RequiredInput::Image if !self.given("image") => {
                refuse("MISSING_IMAGE", "image is required for image-to-video tasks")
            }
            RequiredInput::Reference if !self.given("images") && !self.given("video") => {
                refuse("MISSING_IMAGE", "images or video is required for reference-to-video tasks")
            }
            RequiredInput::Video if !self.given("video") => {
                refuse("MISSING_VIDEO", "video is required for video-edit tasks")
            }
            _ => Ok(()),
        }
    }

    /// A `null` counts as absent.
    fn value(&self, name: &str) -> Option<Value> {
        let raw = self.fields.get(name)?;
        serde_json::from_str(raw.get()).ok().filter(|value| *value != Value::Null)
    }

    /// Present, and neither `null` nor an empty string or list.
    fn given(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|raw| !matches!(raw.get(), "null" | "\"\"" | "[]" | "[ ]"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(body: Value) -> Result<(&'static str, i64), &'static str> {
        let bytes = serde_json::to_vec(&body).unwrap();
        let draft = Draft::read(&bytes);
        draft.check().map(|order| (order.product.name, order.credits)).map_err(|refusal| refusal.error)
    }

    #[test]
    fn defaults_are_five_seconds_with_sound() {
        assert_eq!(
            judge(json!({"type": "pro-text-to-video", "prompt": "a"})),
            Ok(("pro-text-to-video", 400))
        );
        assert_eq!(
            judge(json!({"type": "pro-text-to-video", "prompt": "a", "duration": null, "sound": null})),
            Ok(("pro-text-to-video", 400))
        );
        assert_eq!(
            judge(json!({"type": "std-text-to-video", "prompt": "a", "duration": 3, "sound": false})),
            Ok(("std-text-to-video", 120))
        );
    }

    #[test]
    fn durations() {
        let body =
            |duration: Value| json!({"type": "std-text-to-video", "prompt": "a", "duration": duration});
        for good in [json!(3), json!(15), json!(7.0), json!("7")] {
            assert!(judge(body(good.clone())).is_ok(), "{good}");
        }
        for bad in [json!(2), json!(16), json!(5.5), json!("x"), json!(true), json!([5]), json!(1e300)] {
            assert_eq!(judge(body(bad.clone())), Err("INVALID_DURATION"), "{bad}");
        }
        assert!(
            judge(json!({"type": "o3-pro-video-edit", "prompt": "a", "video": "v", "duration": 99})).is_ok()
        );
    }

    #[test]
    fn prompts() {
        let body = |prompt: Value| json!({"type": "std-text-to-video", "prompt": prompt});
        assert!(judge(body(json!("\u{1F3AC}".repeat(2000)))).is_ok());
        for bad in [json!(null), json!(""), json!("  "), json!(5), json!("x".repeat(2001))] {
            assert_eq!(judge(body(bad)), Err("INVALID_PROMPT"));
        }
    }

    #[test]
    fn sources() {
        let body = |kind: &str, field: &str, value: Value| json!({"type": kind, "prompt": "a", field: value});
        assert_eq!(judge(body("pro-image-to-video", "image_url", json!("u"))), Err("MISSING_IMAGE"));
        assert_eq!(judge(body("pro-image-to-video", "image", json!(""))), Err("MISSING_IMAGE"));
        assert!(judge(body("pro-image-to-video", "image", json!("u"))).is_ok());
        assert_eq!(judge(body("o3-std-reference-to-video", "images", json!([]))), Err("MISSING_IMAGE"));
        assert!(judge(body("o3-std-reference-to-video", "images", json!(["u"]))).is_ok());
        assert!(judge(body("o3-std-reference-to-video", "video", json!("u"))).is_ok());
        assert_eq!(judge(body("o3-std-video-edit", "image", json!("u"))), Err("MISSING_VIDEO"));
    }

    #[test]
    fn types_and_shapes() {
        assert_eq!(judge(json!({"prompt": "a"})), Err("INVALID_TYPE"));
        assert_eq!(judge(json!({"type": "pro-text", "prompt": "a"})), Err("INVALID_TYPE"));
        for body in [&b"["[..], b"[]", b"5", b"", b"{\"type\":"] {
            assert_eq!(Draft::read(body).check().unwrap_err().error, "INVALID_REQUEST");
        }
    }
}
