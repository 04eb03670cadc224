//! Words of the database: enums that it stores, or that its functions return, as text.
//!
//! One macro gives such an enum its words, so that there is one way to read them. A word that this version does not
//! know never becomes another word: decoding fails, and the caller gets [`StoreError::Corrupt`], which names the word
//! and the columns it may be in. The integration test `house::words` compares the words with the check constraints.
//!
//! [`StoreError::Corrupt`]: super::error::StoreError::Corrupt

use std::fmt;

/// A word in the database that this version does not know.
#[derive(Debug)]
pub(in crate::store) struct UnknownWord {
    word: String,
    places: &'static [&'static str],
}

impl UnknownWord {
    /// Longer words are cut off in the error's text, because the column may contain anything.
    const SHOWN: usize = 64;

    pub(in crate::store) fn new(word: &str, places: &'static [&'static str]) -> Self {
        Self { word: word.chars().take(Self::SHOWN).collect(), places }
    }
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no word of {} that this version knows", self.word, self.places.join(", "))
    }
}

impl std::error::Error for UnknownWord {}

/// Declares an enum of words: `Variant = "word"`, and `stored "other"` where the database has another word than the
/// API. `in` names the columns (`table.column`) that hold the words, or the function that returns them.
///
/// The enum has `ALL`, `PLACES` and `as_str`; it is displayed, serialised and documented by its words, and can be bound
/// to a statement and read from a row, alone or in an array.
macro_rules! words {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident in $($place:literal),+ {
            // A token and not a literal, because the derive of the API document cannot look into the invisible group
            // around a literal.
            $($(#[$note:meta])* $variant:ident = $word:tt $(stored $stored:literal)?,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            ::serde::Serialize, ::serde::Deserialize, ::utoipa::ToSchema,
        )]
        $visibility enum $name {
            $($(#[$note])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All variants, in the order of their declaration.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// Where the database has the words: columns (`table.column`), or the function that returns them.
            pub const PLACES: &'static [&'static str] = &[$($place),+];

            /// The word that the API shows.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The variant whose stored word this is.
            pub(in $crate::store) fn of_stored(
                text: &str,
            ) -> Result<Self, $crate::store::db::words::UnknownWord> {
                let known = Self::ALL.into_iter().find(|word| word.stored() == text);
                known.ok_or_else(|| $crate::store::db::words::UnknownWord::new(text, Self::PLACES))
            }

            /// The word as the database stores it.
            pub const fn stored(self) -> &'static str {
                match self { $(Self::$variant => $crate::store::db::words::words!(@stored $word $($stored)?),)+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::sqlx::Type<::sqlx::Postgres> for $name {
            fn type_info() -> ::sqlx::postgres::PgTypeInfo {
                <str as ::sqlx::Type<::sqlx::Postgres>>::type_info()
            }

            fn compatible(other: &::sqlx::postgres::PgTypeInfo) -> bool {
                <str as ::sqlx::Type<::sqlx::Postgres>>::compatible(other)
            }
        }

        impl ::sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> ::sqlx::postgres::PgTypeInfo {
                <String as ::sqlx::postgres::PgHasArrayType>::array_type_info()
            }

            fn array_compatible(other: &::sqlx::postgres::PgTypeInfo) -> bool {
                <String as ::sqlx::postgres::PgHasArrayType>::array_compatible(other)
            }
        }

        impl ::sqlx::Encode<'_, ::sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buffer: &mut ::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<::sqlx::encode::IsNull, ::sqlx::error::BoxDynError> {
                <&str as ::sqlx::Encode<'_, ::sqlx::Postgres>>::encode(self.stored(), buffer)
            }
        }

        impl<'r> ::sqlx::Decode<'r, ::sqlx::Postgres> for $name {
            fn decode(value: ::sqlx::postgres::PgValueRef<'r>) -> Result<Self, ::sqlx::error::BoxDynError> {
                let text = <&str as ::sqlx::Decode<'r, ::sqlx::Postgres>>::decode(value)?;
                Ok(Self::of_stored(text)?)
            }
        }
    };
    (@stored $word:literal) => { $word };
    (@stored $word:literal $stored:literal) => { $stored };
}

pub(in crate::store) use words;

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        enum Pair in "table.column", "other.column" {
            One = "one",
            Two = "two" stored "2",
        }
    }

    #[test]
    fn a_word_may_be_another_one_in_the_database() {
        assert_eq!(Pair::ALL.map(Pair::as_str), ["one", "two"]);
        assert_eq!(Pair::ALL.map(Pair::stored), ["one", "2"]);
        assert_eq!(serde_json::to_value(Pair::Two).unwrap(), "two");
        assert_eq!(serde_json::from_str::<Pair>("\"two\"").unwrap(), Pair::Two);
        assert!(serde_json::from_str::<Pair>("\"2\"").is_err());
        assert_eq!(Pair::One.to_string(), "one");
        let documented = serde_json::to_value(<Pair as utoipa::PartialSchema>::schema()).unwrap();
        assert_eq!(documented["enum"], serde_json::json!(["one", "two"]));
    }

    #[test]
    fn an_unknown_word_is_named_with_its_columns() {
        let error = UnknownWord::new("retired", Pair::PLACES).to_string();
        assert_eq!(error, "\"retired\" is no word of table.column, other.column that this version knows");
    }
}
