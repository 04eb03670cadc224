//! Names that people tell things apart by.

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::{MixedScript, RestrictionLevel, RestrictionLevelDetection};
use utoipa::ToSchema;

use crate::strict::is_unseen;

const LONGEST: usize = 200;

/// A name of an organisation, a team, a user, a key and the like: 1 to 200 characters, all of them visible, so that a name that
/// looks like another one is the same. It is stored in Unicode's normal form C, with single spaces between its words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")]
pub(super) struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadName {
    #[error("a name must have 1 to 200 characters")]
    Length,
    #[error("a name must not have the invisible character U+{:04X}", u32::from(*.0))]
    Invisible(char),
    #[error("a name must not begin with an accent that has no letter")]
    Accent,
    #[error("a name must not mix letters of several scripts within a word: many of them look the same")]
    Mixed,
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(c) = text.trim().chars().find(|c| is_unseen(*c)) {
            return Err(BadName::Invisible(c));
        }
        let name = text.split(' ').filter(|word| !word.trim().is_empty()).collect::<Vec<_>>().join(" ");
        let name: String = name.trim().nfc().collect();
        if !(1..=LONGEST).contains(&name.chars().count()) {
            return Err(BadName::Length);
        }
        if name.split(' ').any(|word| word.starts_with(is_combining_mark)) {
            return Err(BadName::Accent);
        }
        if name.split(|c: char| !c.is_alphabetic() && !is_combining_mark(c)).any(mixes_scripts) {
            return Err(BadName::Mixed);
        }
        Ok(Self(name))
    }
}

/// Whether a word has letters of several scripts that are not written together: Latin and one other are, if that is neither Greek nor
/// Cyrillic, nor one that hardly anybody uses (UTS 39, "moderately restrictive").
fn mixes_scripts(word: &str) -> bool {
    let as_one_writes = || word.nfkc().collect::<String>();
    !word.is_single_script()
        && !as_one_writes().check_restriction_level(RestrictionLevel::ModeratelyRestrictive)
}

impl Name {
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// A time zone by its name in the IANA database. A server's tz directory has other files too, which mean something else on each
/// host (`localtime`, `posixrules`) or count leap seconds (`right/…`): those are refused.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, example = "Europe/Berlin")]
pub(super) struct TimeZone(String);

/// The first parts of names such as `Europe/Berlin`.
const AREAS: [&str; 16] = [
    "Africa",
    "America",
    "Antarctica",
    "Arctic",
    "Asia",
    "Atlantic",
    "Australia",
    "Brazil",
    "Canada",
    "Chile",
    "Etc",
    "Europe",
    "Indian",
    "Mexico",
    "Pacific",
    "US",
];

/// The names without an area.
const PLAIN: [&str; 44] = [
    "CET",
    "CST6CDT",
    "Cuba",
    "EET",
    "EST",
    "EST5EDT",
    "Egypt",
    "Eire",
    "GB",
    "GB-Eire",
    "GMT",
    "GMT+0",
    "GMT-0",
    "GMT0",
    "Greenwich",
    "HST",
    "Hongkong",
    "Iceland",
    "Iran",
    "Israel",
    "Jamaica",
    "Japan",
    "Kwajalein",
    "Libya",
    "MET",
    "MST",
    "MST7MDT",
    "NZ",
    "NZ-CHAT",
    "Navajo",
    "PRC",
    "PST8PDT",
    "Poland",
    "Portugal",
    "ROC",
    "ROK",
    "Singapore",
    "Turkey",
    "UCT",
    "UTC",
    "Universal",
    "W-SU",
    "WET",
    "Zulu",
];

impl TryFrom<String> for TimeZone {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let known = match text.split_once('/') {
            Some((area, _)) => AREAS.contains(&area),
            None => PLAIN.contains(&text.as_str()),
        };
        known
            .then_some(Self(text))
            .ok_or("time_zone must be a name of the IANA database, such as Europe/Berlin or UTC")
    }
}

impl TimeZone {
    pub(super) fn utc() -> Self {
        Self("UTC".into())
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<String, BadName> {
        Name::try_from(text.to_owned()).map(Name::into_string)
    }

    #[test]
    fn a_name_is_what_it_looks_like() {
        for (text, stored) in [
            ("Acme", "Acme"),
            ("  two   words ", "two words"),
            ("Gu\u{308}n", "G\u{fc}n"),
            ("Müller & Söhne (İstanbul) 🦅", "Müller & Söhne (İstanbul) 🦅"),
            ("Ελλάδα Москва Tokyo", "Ελλάδα Москва Tokyo"),
            ("株式会社 東京 3", "株式会社 東京 3"),
            ("שלום", "שלום"),
            ("हिन्दी", "हिन्दी"),
        ] {
            assert_eq!(name(text).as_deref(), Ok(stored), "{text}");
        }
        for c in [
            '\u{200b}',
            '\u{2060}',
            '\u{feff}',
            '\u{ad}',
            '\u{202e}',
            '\u{2066}',
            '\u{200f}',
            '\u{61c}',
            '\u{3164}',
            '\u{2800}',
            '\u{a0}',
            '\u{2028}',
            '\n',
            '\0',
            '\u{e000}',
            '\u{e0041}',
            '\u{fffff}',
        ] {
            assert_eq!(name(&format!("a{c}b")), Err(BadName::Invisible(c)), "{c:?}");
        }
        assert_eq!(name("\u{200b}\u{2060}"), Err(BadName::Invisible('\u{200b}')));
        assert_eq!(name("\u{301}a"), Err(BadName::Accent));
        for good in ["Tokyo東京", "日本のテレビ", "K팝", "naïve", "ﬁlm", "Ａcme", "ⅷ", "µm", "1ª"]
        {
            assert!(name(good).is_ok(), "{good}");
        }
        // Cyrillic, Greek, Cyrillic, Cherokee, Lisu and again Greek with Cyrillic letters, beside Latin ones
        for mixed in
            ["p\u{430}ypal", "\u{391}cme", "\u{421}cme corp", "\u{13aa}cme", "\u{a4ee}cme", "A\u{3bf}\u{43e}"]
        {
            assert_eq!(name(mixed), Err(BadName::Mixed), "{mixed}");
        }
        for length in ["", "   ", &"x".repeat(201)] {
            assert_eq!(name(length), Err(BadName::Length));
        }
    }

    #[test]
    fn only_the_iana_database_names_time_zones() {
        let zone = |text: &str| TimeZone::try_from(text.to_owned()).is_ok();
        for good in [
            "UTC",
            "Europe/Istanbul",
            "America/Argentina/Ushuaia",
            "Etc/GMT+3",
            "EST5EDT",
            "US/Pacific",
            "Japan",
        ] {
            assert!(zone(good), "{good}");
        }
        for bad in [
            "localtime",
            "posixrules",
            "Factory",
            "posix/Europe/Berlin",
            "right/UTC",
            "SystemV/EST5",
            "",
            "utc",
            "+03",
        ] {
            assert!(!zone(bad), "{bad}");
        }
    }
}
