//! Names that another program may take for one another.
//!
//! Parsers differ in what they make of a key: Go's folds case (and takes `ſ` for `s`), .NET's and Jackson's do so on request,
//! Go's newer one also skips `_` and `-`, one written in C may end a key at a zero. The vendor's parser is not known. So a key
//! that any of them may take for a field that is priced is refused, whatever value it has.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Characters that are not shown, and that a comparison of texts may skip (Unicode's `Default_Ignorable_Code_Point`).
pub fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Whether a character shows nothing, or nothing that has a meaning, so that two names which differ by it look the same. The
/// plain space is seen between words.
pub fn is_unseen(c: char) -> bool {
    use GeneralCategory as G;
    // The pattern without dots of Braille.
    let unseen = c == '\u{2800}'
        || matches!(
            c.general_category(),
            G::Control
                | G::Format
                | G::LineSeparator
                | G::ParagraphSeparator
                | G::SpaceSeparator
                | G::PrivateUse
                | G::Surrogate
                | G::Unassigned
        );
    is_ignorable(c) || (c != ' ' && unseen)
}

/// The letters and digits of a name, without differences of case, width, style and accents.
pub fn folded(name: &str) -> String {
    let plain = |c: &char| c.is_alphanumeric() && !is_ignorable(*c);
    // Upper case first: then `ı`, `ſ` and `ß` become what other programs take them for.
    name.nfkd()
        .filter(plain)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfkd()
        .filter(plain)
        .collect()
}

/// Names for which no other name may be taken.
#[derive(Debug)]
pub struct Names<'a>(Vec<(&'a str, String)>);

impl<'a> Names<'a> {
    pub fn of(names: &[&'a str]) -> Self {
        Self(names.iter().map(|name| (*name, folded(name))).collect())
    }

    /// The name that another program may take `key` for, unless it is spelled exactly so.
    pub fn mistaken_for(&self, key: &str) -> Option<&'a str> {
        let Self(names) = self;
        if names.iter().any(|(name, _)| *name == key) {
            return None;
        }
        let whole = folded(key);
        // Where a zero ends a text, the rest is not read.
        let begins = key.split_once('\0').map(|(begins, _)| folded(begins));
        let is = |folded: &String| *folded == whole || begins.as_ref() == Some(folded);
        names.iter().find(|(_, folded)| is(folded)).map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_parser_takes_for_a_name_is_found() {
        let names = Names::of(&["type", "duration", "sound", "callback_url"]);
        for (key, name) in [
            ("Duration", "duration"),
            ("DURATION", "duration"),
            ("duration\0", "duration"),
            ("duration\0anything", "duration"),
            ("\0duration", "duration"),
            (" duration", "duration"),
            ("duration\n", "duration"),
            ("dura\u{200b}tion", "duration"),
            ("\u{feff}duration", "duration"),
            ("durat\u{2060}ion\u{fe0f}", "duration"),
            ("ｄｕｒａｔｉｏｎ", "duration"),
            ("𝐝uration", "duration"),
            ("duratıon", "duration"),
            ("DURATİON", "duration"),
            ("dúration", "duration"),
            ("dura-tion", "duration"),
            ("duration_", "duration"),
            ("duration[]", "duration"),
            ("ſound", "sound"),
            ("ⓢound", "sound"),
            ("callbackUrl", "callback_url"),
            ("CALLBACK-URL", "callback_url"),
            ("Type", "type"),
        ] {
            assert_eq!(names.mistaken_for(key), Some(name), "{key:?}");
        }
        for key in
            ["type", "duration", "callback_url", "durations", "keep_original_sound", "", "typ", "süre", "\0"]
        {
            assert_eq!(names.mistaken_for(key), None, "{key:?}");
        }
    }
}
