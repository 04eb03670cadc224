//! The version of a PostgreSQL server.

use std::fmt;

/// The oldest major version that the tests cover.
pub(super) const MAJOR_MIN: u32 = 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub major: u32,
    text: String,
}

impl Version {
    /// Parses the output of `postgres --version`, such as `postgres (PostgreSQL) 15.18 (Debian …)`, or with `18beta1`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
        let digits = text.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some(Self { major: digits.parse().ok()?, text: text.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_and_of_previews_are_read() {
        let major = |text| Version::parse(text).map(|version| version.major);
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major("pg_ctl (PostgreSQL) 15.18\n"), None);
    }
}
