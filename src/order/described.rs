//! The bodies of the data plane, as its OpenAPI document describes them.

use utoipa::ToSchema;

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
