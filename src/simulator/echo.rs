//! The copy of a create's body that status answers repeat as `request`, verbatim, as the vendor does.
//!
//! Small bodies are kept with their tasks. Images arrive as `data:` URIs of many megabytes; a load test with those would make
//! the simulator the largest process of the machine. So large bodies are kept in one place of bounded size: the bodies of
//! the oldest finished tasks leave it first, then those of the oldest tasks. Of a body that has left, overlong strings are
//! replaced by a short marker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;

use super::clock::Millis;

/// The longest string that is kept for ever. A prompt of 2,000 four-byte characters still fits.
const LONGEST_STRING: usize = 8 * 1024;

/// How many bytes of large bodies are kept.
const MOST_BYTES: usize = 256 << 20;

/// The large bodies, in the order of their creates.
#[derive(Default)]
pub(super) struct Echoes(Mutex<KeptRequest>);

#[derive(Default)]
struct KeptRequest {
    bytes: usize,
    bodies: VecDeque<EchoBody>,
}

struct EchoBody {
    task_id: Arc<str>,
    ends: Millis,
    json: Arc<RawValue>,
}

impl Echoes {
    /// Keeps the body of a task that ends at `ends`, if it is large. `now`: bodies of tasks that have ended leave first.
    pub(super) fn keep(&self, task_id: &Arc<str>, ends: Millis, json: &RawValue, now: Millis) {
        if json.get().len() > LONGEST_STRING {
            let body = EchoBody { task_id: task_id.clone(), ends, json: json.to_owned().into() };
            self.within(MOST_BYTES, body, now);
        }
    }

    /// The body of a task, if it is large and still kept.
    pub(super) fn of(&self, task_id: &str) -> Option<Arc<RawValue>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asks has most likely created the task lately.
        kept.bodies.iter().rev().find(|body| &*body.task_id == task_id).map(|body| body.json.clone())
    }

    fn within(&self, most: usize, body: EchoBody, now: Millis) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += body.json.get().len();
        kept.bodies.push_back(body);
        while kept.bytes > most {
            let finished = kept.bodies.iter().position(|body| body.ends <= now);
            let Some(gone) = kept.bodies.remove(finished.unwrap_or(0)) else { break };
            kept.bytes -= gone.json.get().len();
        }
    }
}

/// Copies `json`, which must be valid, with every overlong string replaced. Key order and the text of numbers
/// stay as they were.
pub(super) fn shortened(json: &RawValue) -> Box<RawValue> {
    let text = json.get();
    if text.len() <= LONGEST_STRING {
        return json.to_owned();
    }
    let shortened = shorten(text);
    // A failure would mean that the scan below broke the document; an empty echo is then the honest one.
    RawValue::from_string(shortened).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn shorten(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('"') {
        let inside = &rest[open + 1..];
        let Some(length) = string_length(inside) else { break };
        if length > LONGEST_STRING {
            kept.push_str(&rest[..open]);
            kept.push_str(&format!("\"[{length} bytes dropped by the simulator]\""));
        } else {
            kept.push_str(&rest[..open + 1 + length + 1]);
        }
        rest = &inside[length + 1..];
    }
    kept.push_str(rest);
    kept
}

/// Bytes up to the quote that closes a string.
fn string_length(inside: &str) -> Option<usize> {
    let mut escaped = false;
    inside.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> String {
        shortened(&RawValue::from_string(text.to_owned()).unwrap()).get().to_owned()
    }

    #[test]
    fn small_bodies_stay_verbatim() {
        let text = r#"{ "prompt" : "a \"b\" \\", "duration": 5.0, "type":"x" }"#;
        assert_eq!(kept(text), text);
    }

    #[test]
    fn only_long_strings_go() {
        let long = format!("data:image/png;base64,{}", "A".repeat(20_000));
        let text =
            format!(r#"{{"prompt":"a \"b\" \\","image":"{long}","n":1.50,"images":["{long}\\\"","k"]}}"#);
        let marker = |bytes: usize| format!("[{bytes} bytes dropped by the simulator]");
        let expected = format!(
            r#"{{"prompt":"a \"b\" \\","image":"{}","n":1.50,"images":["{}","k"]}}"#,
            marker(long.len()),
            marker(long.len() + 4)
        );
        assert_eq!(kept(&text), expected);
    }

    #[test]
    fn the_longest_prompt_is_kept() {
        let text = format!(r#"{{"prompt":"{}"}}"#, "\u{1F3AC}".repeat(2000));
        assert_eq!(kept(&text), text);
        // An escaped prompt is longer on the wire (12 bytes a character) and may go; the price does not need it.
    }

    #[test]
    fn large_bodies_are_bounded_in_sum_and_those_of_finished_tasks_leave_first() {
        let now = Millis::now();
        let body = |task: &str, ends: Millis, bytes: usize| EchoBody {
            task_id: task.into(),
            ends,
            json: RawValue::from_string(format!("\"{}\"", "a".repeat(bytes - 2))).unwrap().into(),
        };
        let echoes = Echoes::default();
        let kept = |of: &[&str]| {
            let all = ["running", "finished", "later", "last"];
            let there: Vec<&str> = all.into_iter().filter(|task| echoes.of(task).is_some()).collect();
            assert_eq!(there, of);
        };
        echoes.within(100, body("running", now.plus(1_000), 40), now);
        echoes.within(100, body("finished", now, 40), now);
        kept(&["running", "finished"]);
        echoes.within(100, body("later", now.plus(1_000), 40), now);
        kept(&["running", "later"]);
        echoes.within(100, body("last", now.plus(1_000), 40), now);
        kept(&["later", "last"]);
        echoes.within(100, body("too large", now.plus(1_000), 101), now);
        kept(&[]);
        assert_eq!(echoes.0.lock().unwrap().bytes, 0);
    }
}
