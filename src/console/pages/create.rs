//! The form of a create: from its fields to the body that the API takes.

use serde_json::{Map, Value, json};

use crate::console::answers::TypeFields;
use crate::console::visit::Fields;
use crate::order::Labels;

/// The fields of the form as they were filled in.
#[derive(Debug, Clone, Default)]
pub(in crate::console) struct CreateForm {
    pub(in crate::console) task_type: String,
    pub(in crate::console) prompt: String,
    pub(in crate::console) duration: String,
    pub(in crate::console) aspect_ratio: String,
    pub(in crate::console) sound: bool,
    pub(in crate::console) keep_original_sound: bool,
    pub(in crate::console) image: String,
    pub(in crate::console) end_image: String,
    /// URLs of images, one a line.
    pub(in crate::console) images: String,
    pub(in crate::console) video: String,
    pub(in crate::console) negative_prompt: String,
    pub(in crate::console) cfg_scale: String,
    /// Such as `project=x, shot=12`.
    pub(in crate::console) labels: String,
}

impl CreateForm {
    /// The form for a type, with what was filled in, or else the type's defaults.
    pub(in crate::console) fn of(fields: &Fields, task_type: &str, rules: &TypeFields) -> Self {
        // A box that is not ticked is not sent: whether the form was sent at all is told by another field.
        let sent = fields.is_set("key") || fields.is_set("filled");
        let seconds = rules.seconds.as_ref().map(|seconds| seconds.by_default.to_string());
        let or = |name: &str, otherwise: &str| fields.get(name).unwrap_or(otherwise).to_owned();
        Self {
            task_type: task_type.to_owned(),
            prompt: fields.text("prompt"),
            duration: or("duration", seconds.as_deref().unwrap_or_default()),
            aspect_ratio: or("aspect_ratio", rules.aspect_ratios.first().map_or("", String::as_str)),
            sound: if sent { fields.is_set("sound") } else { rules.sound_by_default },
            keep_original_sound: !sent || fields.is_set("keep_original_sound"),
            image: fields.text("image"),
            end_image: fields.text("end_image"),
            images: fields.text("images"),
            video: fields.text("video"),
            negative_prompt: fields.text("negative_prompt"),
            cfg_scale: fields.text("cfg_scale"),
            labels: fields.text("labels"),
        }
    }

    /// About how many bytes the body has.
    pub(in crate::console) fn size(&self) -> usize {
        self.prompt.len() + self.image.len() + self.end_image.len() + self.images.len() + self.video.len()
    }

    /// The body of the create. The same fields always give the same bytes, because a promised price is for one body.
    pub(in crate::console) fn body(&self, rules: &TypeFields) -> String {
        let mut body = Map::new();
        let used = |need: &str| need != "unused";
        let mut text = |name: &str, value: &str| {
            if !value.trim().is_empty() {
                body.insert(name.into(), json!(value));
            }
        };
        text("type", &self.task_type);
        // Browsers send line ends as two characters.
        text("prompt", &self.prompt.replace("\r\n", "\n"));
        text("aspect_ratio", &self.aspect_ratio);
        text("negative_prompt", &self.negative_prompt.replace("\r\n", "\n"));
        if used(&rules.image) {
            text("image", self.image.trim());
        }
        if used(&rules.end_image) {
            text("end_image", self.end_image.trim());
        }
        if used(&rules.video) {
            text("video", self.video.trim());
        }
        let images: Vec<&str> = self.images.split_whitespace().collect();
        if used(&rules.images) && !images.is_empty() {
            body.insert("images".into(), json!(images));
        }
        if rules.seconds.is_some() && !self.duration.trim().is_empty() {
            let number =
                self.duration.trim().parse::<i64>().map_or_else(|_| json!(self.duration), Value::from);
            body.insert("duration".into(), number);
        }
        if let Ok(scale) = self.cfg_scale.trim().parse::<f64>() {
            body.insert("cfg_scale".into(), json!(scale));
        } else if !self.cfg_scale.trim().is_empty() {
            body.insert("cfg_scale".into(), json!(self.cfg_scale));
        }
        body.insert("sound".into(), json!(self.sound));
        if used(&rules.video) {
            body.insert("keep_original_sound".into(), json!(self.keep_original_sound));
        }
        Value::Object(body).to_string()
    }

    /// The header with the labels of the create; nothing if it has none.
    pub(in crate::console) fn labels_header(&self) -> Result<Option<String>, String> {
        let labels = Labels::of_text(&self.labels)?;
        Ok((!labels.is_empty()).then(|| labels.header()))
    }

    /// The create as a command, without the key. Files are left out: nobody reads them.
    pub(in crate::console) fn curl(&self, base_url: &str, rules: &TypeFields) -> String {
        let short =
            |text: &str| if text.starts_with("data:") { "data:…".to_owned() } else { text.to_owned() };
        let shown = Self {
            image: short(&self.image),
            end_image: short(&self.end_image),
            video: short(&self.video),
            images: self.images.split_whitespace().map(short).collect::<Vec<_>>().join("\n"),
            ..self.clone()
        };
        let (url, body) =
            (shell_quoted(&format!("{base_url}/api/generate")), shell_quoted(&shown.body(rules)));
        let labels = self.labels_header().ok().flatten();
        let labels = labels.map_or(String::new(), |labels| {
            format!(" \\\n  -H {}", shell_quoted(&format!("X-Tollgate-Labels: {labels}")))
        });
        format!(
            "curl {url} \\\n  -H \"Authorization: Bearer $TOLLGATE_KEY\" \\\n  -H \"Content-Type: application/json\"{labels} \\\n  -d {body}"
        )
    }
}

/// A text as one word of a shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::answers::Seconds;

    fn rules(image: &str, video: &str) -> TypeFields {
        TypeFields {
            prompt_characters: 2_000,
            seconds: Some(Seconds { least: 3, most: 15, by_default: 5 }),
            image: image.into(),
            end_image: "unused".into(),
            images: "unused".into(),
            most_images: 7,
            video: video.into(),
            sound_by_default: true,
            aspect_ratios: vec!["16:9".into(), "1:1".into()],
        }
    }

    #[test]
    fn an_empty_form_has_the_defaults_of_its_type() {
        let rules = rules("unused", "unused");
        let form = CreateForm::of(&Fields::parse(b"prompt=a+boat").unwrap(), "t", &rules);
        let body = form.body(&rules);
        assert_eq!(body, r#"{"aspect_ratio":"16:9","duration":5,"prompt":"a boat","sound":true,"type":"t"}"#);
    }

    #[test]
    fn a_box_that_is_not_ticked_is_false_and_fields_of_other_types_are_left_out() {
        let rules = rules("required", "unused");
        let sent = b"key=k&prompt=it%27s%0D%0Aa+boat&duration=7&image=https://x.example/a.png&video=https://x.example/v";
        let form = CreateForm::of(&Fields::parse(sent).unwrap(), "t", &rules);
        assert_eq!(
            form.body(&rules),
            "{\"aspect_ratio\":\"16:9\",\"duration\":7,\"image\":\"https://x.example/a.png\",\"prompt\":\"it's\\na boat\",\
             \"sound\":false,\"type\":\"t\"}"
        );
        let curl = form.curl("https://gw.example", &rules);
        assert!(curl.contains(r"it'\''s") && curl.contains("$TOLLGATE_KEY"), "{curl}");
        assert!(!curl.contains("Labels"), "{curl}");
        let labelled = CreateForm { labels: "project=x, by=it's 5%".into(), ..form };
        let curl = labelled.curl("https://gw.example", &rules);
        assert!(curl.contains(r"-H 'X-Tollgate-Labels: by=it'\''s%205%25, project=x'"), "{curl}");
    }

    #[test]
    fn a_file_is_not_shown_in_the_command() {
        let rules = rules("required", "unused");
        let form =
            CreateForm::of(&Fields::parse(b"key=k&image=data:image/png;base64,AAAA").unwrap(), "t", &rules);
        assert!(form.body(&rules).contains("AAAA") && !form.curl("x", &rules).contains("AAAA"));
    }
}
