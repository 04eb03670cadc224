//! What a create of a type takes, by the same limits as its validation: for lists of prices, and for forms.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    DEFAULT_SECONDS, DEFAULT_SOUND, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SECONDS, MIN_SECONDS, is_video_edit,
};

/// Whether a field is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    Required,
    Optional,
    /// Fields of this need are alternatives: at least one of them is required.
    OneOf,
    /// The type does not use the field.
    Unused,
}

/// The fields of a create of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct TypeFields {
    /// The most characters of `prompt`.
    prompt_characters: usize,
    /// The range of `duration`; null: the video has a length of its own.
    seconds: Option<Seconds>,
    /// The need of `image`.
    image: Need,
    /// The need of `end_image`.
    end_image: Need,
    /// The need of `images`.
    images: Need,
    /// The most entries of `images`.
    most_images: usize,
    /// The need of `video`.
    video: Need,
    /// The value of `sound` if it is left out.
    sound_by_default: bool,
    /// The values of `aspect_ratio`.
    aspect_ratios: [&'static str; 3],
}

/// The range of a length in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Seconds {
    least: u8,
    most: u8,
    /// The length if `duration` is left out.
    by_default: u8,
}

impl TypeFields {
    /// The fields of a create of `task_type`.
    pub fn of(task_type: &str) -> Self {
        let ends = |with: &str| task_type.ends_with(with);
        let (from_image, by_reference) = (ends("-image-to-video"), ends("-reference-to-video"));
        let need = |used: bool, need: Need| if used { need } else { Need::Unused };
        let video = if is_video_edit(task_type) { Need::Required } else { need(by_reference, Need::OneOf) };
        let seconds = Seconds { least: MIN_SECONDS, most: MAX_SECONDS, by_default: DEFAULT_SECONDS };
        Self {
            prompt_characters: MAX_PROMPT_CHARS,
            seconds: (!is_video_edit(task_type)).then_some(seconds),
            image: need(from_image, Need::Required),
            end_image: need(from_image, Need::Optional),
            images: need(by_reference, Need::OneOf),
            most_images: MAX_IMAGES,
            video,
            sound_by_default: DEFAULT_SOUND,
            aspect_ratios: super::ASPECT_RATIOS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_told_with_the_fields_that_its_validation_asks_for() {
        let text = TypeFields::of("pro-text-to-video");
        assert_eq!((text.image, text.images, text.video), (Need::Unused, Need::Unused, Need::Unused));
        let image = TypeFields::of("o3-std-image-to-video");
        assert_eq!((image.image, image.end_image), (Need::Required, Need::Optional));
        let reference = TypeFields::of("o3-pro-reference-to-video");
        assert_eq!((reference.images, reference.video), (Need::OneOf, Need::OneOf));
        let edit = TypeFields::of("o3-pro-video-edit");
        assert_eq!((edit.video, edit.seconds), (Need::Required, None));
    }
}
