//! How letters look, by Unicode's tables of confusable characters (UTS 39). The database looks at names by them, so that no name
//! looks like another one in use: `refuse_look_alike`.

use sqlx::PgConnection;
use unicode_normalization::UnicodeNormalization;
use unicode_security::skeleton;

/// By which tables, and by which rules below: with another version everything is looked at again.
fn version() -> String {
    let (major, minor, patch) = unicode_security::UNICODE_VERSION;
    format!("{major}.{minor}.{patch}, 1")
}

/// The looks of one letter: as it is written, in either case, and as a capital.
fn looks(letter: char) -> [String; 2] {
    let mut bytes = [0; 4];
    let written = skeleton(letter.encode_utf8(&mut bytes)).flat_map(char::to_lowercase).collect();
    let capital: String = letter.to_uppercase().collect();
    [written, skeleton(&capital).collect()]
}

/// Writes how letters look into the database, unless that is known there by this version.
pub(super) async fn set(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let version = version();
    let known: Option<String> = sqlx::query_scalar("select l.written from letter_look l where l.letter = ''")
        .fetch_optional(&mut *connection)
        .await?;
    if known.as_ref() == Some(&version) {
        return Ok(());
    }
    let (mut letters, mut written, mut capitals) = (Vec::new(), Vec::new(), Vec::new());
    // The database takes letters apart before it looks at them. No text there has the first one.
    for letter in ('\u{1}'..=char::MAX).filter(|letter| std::iter::once(*letter).nfkd().eq([*letter])) {
        let looks = looks(letter);
        if looks.iter().any(|look| !look.chars().eq([letter])) {
            let [as_written, as_capital] = looks;
            letters.push(letter.to_string());
            written.push(as_written);
            capitals.push(as_capital);
        }
    }
    sqlx::query("select set_letter_looks($1, $2, $3, $4)")
        .bind(version)
        .bind(letters)
        .bind(written)
        .bind(capitals)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_look_like_others_in_either_case() {
        for (letter, written, capital) in [
            ('l', "l", "L"),
            ('I', "l", "l"),
            ('1', "l", "l"),
            ('i', "i", "l"),
            ('0', "o", "O"),
            ('O', "o", "O"),
            ('m', "rn", "M"),
            // Cherokee, Lisu, Cyrillic, Greek
            ('\u{13aa}', "a", "A"),
            ('\u{a4ee}', "a", "A"),
            ('\u{440}', "p", "P"),
            ('\u{3bf}', "o", "O"),
            ('東', "東", "東"),
        ] {
            assert_eq!(looks(letter), [written, capital], "{letter}");
        }
    }
}
