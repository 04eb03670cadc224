//! An answer that is too large to be kept: what matters of it is read as it streams by, in bounded memory. The rest of the
//! gateway then works with a stand-in, whose `data` is the vendor's without its long values.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use struson::reader::{JsonReader, JsonStreamReader, ReaderError, ReaderSettings, ValueType};

use super::outcome::Envelope;

/// Strings of more bytes are replaced by a note of their length. A prompt of 2,000 characters is shorter.
const LONGEST_STRING: usize = 16 << 10;

/// How many bytes of the vendor's `data` are kept in all. One field takes at most half of what is left.
const MOST: usize = 256 << 10;

/// The fields that a task cannot end without, or that its owner pays for: each has room of its own beyond [`MOST`], however
/// much precedes it.
const ALWAYS: [&str; 7] =
    ["task_id", "status", "consumed_credits", "response", "error_message", "created_at", "type"];
const ROOM_OF_EACH: usize = 64 << 10;

/// A name or a number of more bytes makes an answer unreadable: the reader keeps these whole.
const LONGEST_TOKEN: u64 = 64 << 10;

/// Values in more lists and objects than this are left out; those in far more make an answer unreadable.
const DEEPEST: usize = 32;
const DEEPEST_READ: u32 = 10_000;

/// How the note ends that stands in place of a long string.
const LEFT_OUT: &str = " bytes left out]";

/// Whether a value of the vendor's, as JSON, has a note in place of a long string.
pub fn is_left_out(json: &str) -> bool {
    json.contains(LEFT_OUT)
}

/// The field that says that something was left out.
const NOTE: &str = "gateway_note";

/// Reads the vendor's envelope; none: the answer is none, or did not come to its end.
pub(super) fn read(answer: impl Read) -> Option<Envelope<'static>> {
    let answer = without_mark(answer).ok()?;
    let (read, allowed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(u64::MAX)));
    let counted = CountedReader { answer, read: read.clone(), allowed: allowed.clone() };
    let settings = ReaderSettings {
        track_path: false,
        max_nesting_depth: Some(DEEPEST_READ),
        // What is skipped is not kept, and what is kept is bounded by `LONGEST_TOKEN`.
        restrict_number_values: false,
        ..ReaderSettings::default()
    };
    let mut reader = Reader { json: JsonStreamReader::new_custom(counted, settings), allowed };
    let (mut envelope, data) = reader.envelope().ok()?;
    reader.json.consume_trailing_whitespace().ok()?;
    envelope.data = data.map(|data| data.closed(read.get()).into());
    Some(envelope)
}

/// The answer without the byte order mark that some servers put before their JSON.
fn without_mark(mut answer: impl Read) -> io::Result<impl Read> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let mut head = Vec::with_capacity(MARK.len());
    answer.by_ref().take(MARK.len() as u64).read_to_end(&mut head)?;
    if head == MARK {
        head.clear();
    }
    Ok(io::Cursor::new(head).chain(answer))
}

/// Counts the bytes of an answer, and ends it where a token takes more than it may.
struct CountedReader<R> {
    answer: R,
    read: Rc<Cell<u64>>,
    allowed: Rc<Cell<u64>>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == 0 {
            return Err(io::Error::other("a name or a number is too long"));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(into.len());
        let length = self.answer.read(into.get_mut(..most).unwrap_or_default())?;
        let more = u64::try_from(length).unwrap_or(u64::MAX);
        self.read.set(self.read.get().saturating_add(more));
        if allowed != u64::MAX {
            self.allowed.set(allowed.saturating_sub(more));
        }
        Ok(length)
    }
}

/// Nothing can be made of the answer.
struct Unreadable;

impl From<ReaderError> for Unreadable {
    fn from(_: ReaderError) -> Self {
        Self
    }
}

impl From<io::Error> for Unreadable {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// The `data` that is kept, as JSON without its last brace.
struct Data {
    text: String,
    /// Of the names in [`ALWAYS`], those that were kept: of duplicate fields the first one counts.
    kept: [bool; ALWAYS.len()],
    left: usize,
}

impl Data {
    fn closed(mut self, bytes: u64) -> String {
        let separator = if self.text.len() > 1 { "," } else { "" };
        let note = format!(
            "The video service's answer had {bytes} bytes, which is more than is kept: long values are left out."
        );
        self.text.push_str(&format!("{separator}\"{NOTE}\":{}}}", json(&note)));
        self.text
    }
}

/// A string as JSON; serialising one cannot fail.
fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

struct Reader<R: Read> {
    json: JsonStreamReader<CountedReader<R>>,
    allowed: Rc<Cell<u64>>,
}

impl<R: Read> Reader<R> {
    fn envelope(&mut self) -> Result<(Envelope<'static>, Option<Data>), Unreadable> {
        let (mut code, mut error, mut message, mut data) = (None, None, None, None);
        let mut seen = [false; 4];
        self.json.begin_object()?;
        while self.json.has_next()? {
            let name = self.name()?;
            let known = ["code", "error", "message", "data"].iter().position(|known| *known == name);
            // An envelope with a field twice is no envelope, as for answers that are kept.
            if let Some(seen) = known.and_then(|known| seen.get_mut(known))
                && std::mem::replace(seen, true)
            {
                return Err(Unreadable);
            }
            match name.as_str() {
                "code" => code = self.short()?,
                "error" => error = self.short()?,
                "message" => message = self.short()?,
                "data" if self.json.peek()? == ValueType::Object => data = Some(self.data()?),
                _ => self.json.skip_value()?,
            }
        }
        self.json.end_object()?;
        Ok((Envelope::of(code.as_deref(), error.as_deref(), message.as_deref(), None), data))
    }

    fn data(&mut self) -> Result<Data, Unreadable> {
        let mut data = Data { text: "{".into(), kept: [false; ALWAYS.len()], left: MOST };
        self.json.begin_object()?;
        while self.json.has_next()? {
            let name = self.name()?;
            let always = ALWAYS.iter().position(|always| *always == name);
            let own = always.and_then(|always| data.kept.get_mut(always)).filter(|kept| !**kept);
            let most = if own.is_some() { ROOM_OF_EACH } else { data.left / 2 };
            let before = data.text.len();
            if before > 1 {
                data.text.push(',');
            }
            data.text.push_str(&json(&name));
            data.text.push(':');
            let end = before.saturating_add(most);
            let whole = self.value(&mut data.text, end, DEEPEST)?;
            if !whole {
                data.text.truncate(before);
            } else if let Some(kept) = own {
                *kept = true;
            } else {
                data.left = data.left.saturating_sub(data.text.len() - before);
            }
        }
        self.json.end_object()?;
        Ok(data)
    }

    /// The next value as JSON, unless it is long.
    fn short(&mut self) -> Result<Option<String>, Unreadable> {
        let mut text = String::new();
        Ok(self.value(&mut text, 2 * LONGEST_STRING, 1)?.then_some(text))
    }

    /// Appends the next value to `text`; whether all of it: it is cut when `text` is longer than `end`, or it is in too many
    /// lists and objects. Long strings are replaced.
    fn value(&mut self, text: &mut String, end: usize, depth: usize) -> Result<bool, Unreadable> {
        if text.len() > end {
            self.json.skip_value()?;
            return Ok(false);
        }
        let kind = self.json.peek()?;
        match kind {
            ValueType::Null => {
                self.json.next_null()?;
                text.push_str("null");
            }
            ValueType::Boolean => text.push_str(if self.json.next_bool()? { "true" } else { "false" }),
            ValueType::Number => {
                self.allowed.set(LONGEST_TOKEN);
                text.push_str(self.json.next_number_as_str()?);
                self.allowed.set(u64::MAX);
            }
            ValueType::String => self.string(text)?,
            ValueType::Array | ValueType::Object => {
                let Some(inside) = depth.checked_sub(1) else {
                    self.json.skip_value()?;
                    return Ok(false);
                };
                let whole = match kind {
                    ValueType::Array => self.array(text, end, inside)?,
                    _ => self.object(text, end, inside)?,
                };
                if !whole {
                    return Ok(false);
                }
            }
        }
        Ok(text.len() <= end)
    }

    fn array(&mut self, text: &mut String, end: usize, depth: usize) -> Result<bool, Unreadable> {
        self.json.begin_array()?;
        text.push('[');
        let (mut whole, mut first) = (true, true);
        while self.json.has_next()? {
            if whole {
                if !std::mem::take(&mut first) {
                    text.push(',');
                }
                whole = self.value(text, end, depth)?;
            } else {
                self.json.skip_value()?;
            }
        }
        self.json.end_array()?;
        text.push(']');
        Ok(whole)
    }

    fn object(&mut self, text: &mut String, end: usize, depth: usize) -> Result<bool, Unreadable> {
        self.json.begin_object()?;
        text.push('{');
        let (mut whole, mut first) = (true, true);
        while self.json.has_next()? {
            if whole {
                if !std::mem::take(&mut first) {
                    text.push(',');
                }
                text.push_str(&json(&self.name()?));
                text.push(':');
                whole = self.value(text, end, depth)?;
            } else {
                self.json.skip_name()?;
                self.json.skip_value()?;
            }
        }
        self.json.end_object()?;
        text.push('}');
        Ok(whole)
    }

    fn name(&mut self) -> Result<String, Unreadable> {
        self.allowed.set(LONGEST_TOKEN);
        let name = self.json.next_name_owned()?;
        self.allowed.set(u64::MAX);
        Ok(name)
    }

    fn string(&mut self, text: &mut String) -> Result<(), Unreadable> {
        let mut string = self.json.next_string_reader()?;
        let mut bytes = Vec::new();
        let most = u64::try_from(LONGEST_STRING + 1).unwrap_or(u64::MAX);
        (&mut string).take(most).read_to_end(&mut bytes)?;
        if bytes.len() > LONGEST_STRING {
            let rest = io::copy(&mut string, &mut io::sink())?;
            text.push_str(&json(&format!("[{}{LEFT_OUT}", most.saturating_add(rest))));
        } else {
            text.push_str(&json(std::str::from_utf8(&bytes).map_err(|_| Unreadable)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_byte_order_mark_before_the_answer_is_left_out() {
        let answer = r#"{"code":200,"message":"success","data":{"task_id":"n75a"}}"#;
        for (marks, readable) in [("", true), ("\u{feff}", true), ("\u{feff}\u{feff}", false)] {
            let envelope = read(format!("{marks}{answer}").as_bytes());
            assert_eq!(envelope.and_then(|envelope| envelope.code), readable.then_some(200), "{marks:?}");
        }
        assert!(read(&b"\xef\xbb"[..]).is_none() && read(&b""[..]).is_none());
    }

    /// The `data` that is kept of an answer, and the note taken out of it.
    fn kept(answer: &str) -> (Value, String) {
        let data = read(answer.as_bytes()).unwrap().data.unwrap();
        assert!(data.len() < 2 * MOST, "{}", data.len());
        let mut data: Value = crate::strict::read_json(data.as_bytes()).unwrap();
        let note = data.as_object_mut().unwrap().remove(NOTE).unwrap();
        (data, note.as_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_short_stays_as_it_is_and_long_strings_leave_a_note() {
        let long = "A".repeat(1 << 20);
        let answer = format!(
            r#" {{"code":200,"x":[{{"y":1}}],"message":"success","data":{{"request":{{"image":"{long}","prompt":"a \"b\" \u00fc","n":[1.50,{{}},[]]}},
            "task_id":"n75a","status":"SUCCESS","consumed_credits":4e2,"response":["u"],"error_message":null,"ok":true}}}} "#
        );
        let (data, note) = kept(&answer);
        let request =
            json!({"image": "[1048576 bytes left out]", "prompt": "a \"b\" ü", "n": [1.50, {}, []]});
        let rest = json!({"task_id": "n75a", "status": "SUCCESS", "consumed_credits": 4e2, "response": ["u"],
                          "error_message": null, "ok": true, "request": request});
        assert_eq!(data, rest);
        assert!(note.contains(&format!("had {} bytes", answer.len())), "{note}");
        let envelope = read(answer.as_bytes()).unwrap();
        assert!(envelope.data.unwrap().contains(r#""consumed_credits":4e2"#), "numbers keep their text");
        assert_eq!((envelope.code, envelope.message.as_deref()), (Some(200), Some("success")));
    }

    #[test]
    fn however_much_precedes_the_figures_they_are_found() {
        let many: String = (0..100_000).map(|n| format!("\"field {n}\":\"{}\",", "x".repeat(60))).collect();
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let list = format!("[{}1]", "{\"a\":[1,2,3]},".repeat(100_000));
        let figures = r#""task_id":"n75a","status":"FAILED","consumed_credits":7"#;
        for before in [many, format!("\"deep\":{deep},"), format!("\"list\":{list},")] {
            let answer = format!(r#"{{"data":{{{before}{figures}}},"code":"200"}}"#);
            let (data, _) = kept(&answer);
            assert_eq!((&data["task_id"], &data["status"]), (&json!("n75a"), &json!("FAILED")));
            assert_eq!(
                (&data["consumed_credits"], data.get("list"), data.get("deep")),
                (&json!(7), None, None)
            );
            assert_eq!(read(answer.as_bytes()).unwrap().code, Some(200));
        }
    }

    #[test]
    fn refusals_have_their_code_and_words() {
        let padding = "x".repeat(100_000);
        let answer = format!(
            r#"{{"padding":"{padding}","code":400,"error":"INVALID_PROMPT","message":"no","data":[1]}}"#
        );
        let envelope = read(answer.as_bytes()).unwrap();
        assert_eq!(envelope.code, Some(400));
        assert_eq!(
            (envelope.error.as_deref(), envelope.message.as_deref()),
            (Some("INVALID_PROMPT"), Some("no"))
        );
        assert_eq!(envelope.data, None);
    }

    #[test]
    fn what_is_no_envelope_or_has_no_end_or_endless_tokens_is_not_read() {
        let endless = "1".repeat(1 << 20);
        for answer in [
            "",
            "<html>",
            "[]",
            r#"{"code":200,"data":{"task_id":"n75a","status":"SUCCESS""#,
            r#"{"code":200,"data":{}} x"#,
            r#"{"code":200,"code":200}"#,
            "{\"code\":200,\"data\":{\"a\":\"\u{1}\"}}",
            &format!("{{\"{endless}\":1}}"),
            &format!("{{\"data\":{{\"{endless}\":1}}}}"),
            &format!("{{\"data\":{{\"a\":{endless}}}}}"),
            &format!("{{\"data\":{}}}", "[".repeat(20_000)),
        ] {
            assert!(read(answer.as_bytes()).is_none(), "{}", answer.get(..40).unwrap_or(answer));
        }
        // What is only skipped may be as long as it likes.
        assert!(read(format!("{{\"a\":{endless}}}").as_bytes()).is_some());
    }
}
