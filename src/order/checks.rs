//! The checks of the fields of a create, in the order of the contract's table.

use std::sync::Arc;

use super::{
    ASPECT_RATIOS, DEFAULT_SECONDS, DEFAULT_SOUND, Invalid, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SECONDS,
    MIN_SECONDS, invalid, is_video_edit,
};
use crate::pricing::{PriceBook, Tariff};
use crate::strict;
use crate::wire::{Code, RawObject};

pub(super) const CALLBACK: &str = "callback_url";

/// The fields that decide on the price, or that the vendor must not see. No other field may be taken for one of them.
const DECISIVE: [&str; 4] = ["type", "duration", "sound", CALLBACK];

/// Refuses a key that the vendor may take for one of [`DECISIVE`]: the vendor would make what was not priced.
pub(super) fn check_keys(object: &RawObject<&str>) -> Result<(), Invalid> {
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
pub(super) fn check_callback(object: &RawObject<&str>) -> Result<(), Invalid> {
    if object.get(CALLBACK).is_none() {
        return Ok(());
    }
    invalid(
        Code::InvalidCallback,
        "'callback_url' must be below the address of a webhook endpoint of your organisation, and it has none: leave it out, \
         and ask GET /api/status for the state of the task",
    )
}

pub(super) fn known_type(object: &RawObject<&str>, book: &PriceBook) -> Result<(Arc<str>, Tariff), Invalid> {
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

pub(super) fn check_prompt(object: &RawObject<&str>) -> Result<(), Invalid> {
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

pub(super) fn duration(object: &RawObject<&str>) -> Result<u8, Invalid> {
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

pub(super) fn check_aspect_ratio(object: &RawObject<&str>) -> Result<(), Invalid> {
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
pub(super) fn check_media(object: &RawObject<&str>, task_type: &str) -> Result<(), Invalid> {
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
pub(super) fn check_options(object: &RawObject<&str>) -> Result<bool, Invalid> {
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
