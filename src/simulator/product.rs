//! What the vendor sells: twelve task types and their prices.

use serde::{Deserialize, Serialize};

/// What a task type needs besides its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequiredInput {
    Text,
    Image,
    Reference,
    Video,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pricing {
    PerSecond { silent: i64, sound: i64 },
    Fixed(i64),
}

/// One task type of the vendor's list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) source: RequiredInput,
    price: Pricing,
}

const fn per_second(name: &'static str, source: RequiredInput, silent: i64, sound: i64) -> Product {
    Product { name, source, price: Pricing::PerSecond { silent, sound } }
}

const fn fixed(name: &'static str, credits: i64) -> Product {
    Product { name, source: RequiredInput::Video, price: Pricing::Fixed(credits) }
}

static PRODUCTS: [Product; 12] = [
    per_second("pro-text-to-video", RequiredInput::Text, 54, 80),
    per_second("pro-image-to-video", RequiredInput::Image, 54, 80),
    per_second("std-text-to-video", RequiredInput::Text, 40, 60),
    per_second("std-image-to-video", RequiredInput::Image, 40, 60),
    per_second("o3-pro-text-to-video", RequiredInput::Text, 48, 48),
    per_second("o3-pro-image-to-video", RequiredInput::Image, 48, 48),
    per_second("o3-pro-reference-to-video", RequiredInput::Reference, 72, 72),
    fixed("o3-pro-video-edit", 435),
    per_second("o3-std-text-to-video", RequiredInput::Text, 36, 36),
    per_second("o3-std-image-to-video", RequiredInput::Image, 36, 36),
    per_second("o3-std-reference-to-video", RequiredInput::Reference, 20, 20),
    fixed("o3-std-video-edit", 360),
];

impl Product {
    pub(super) fn find(name: &str) -> Option<&'static Product> {
        PRODUCTS.iter().find(|product| product.name == name)
    }

    /// Types with a fixed price run as long as their source video: their `duration` is ignored.
    pub(super) fn has_duration(&self) -> bool {
        matches!(self.price, Pricing::PerSecond { .. })
    }

    pub(super) fn credits(&self, seconds: i64, with_sound: bool) -> i64 {
        match self.price {
            Pricing::PerSecond { sound, .. } if with_sound => sound * seconds,
            Pricing::PerSecond { silent, .. } => silent * seconds,
            Pricing::Fixed(credits) => credits,
        }
    }

    /// A fresh task id. The vendor routes a status call by the prefix, so it differs between backends.
    pub(super) fn new_task_id(&self) -> String {
        let (prefix, suffix) =
            if self.name.starts_with("o3-") { ("n71", "klingo3") } else { ("n75", "kling3") };
        // 70 bits: two ids never meet, not even across restarts without a state file.
        let mut random: u128 = rand::random::<u128>() >> 58;
        let mut id = String::with_capacity(24);
        id.push_str(prefix);
        for _ in 0..14 {
            let digit = u32::try_from(random % 36).unwrap_or(0);
            id.push(char::from_digit(digit, 36).unwrap_or('0'));
            random /= 36;
        }
        id.push_str(suffix);
        id
    }
}

impl Serialize for &'static Product {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Product {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Product::find(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown task type {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_the_documented_ones() {
        let listed = [
            ("pro-text-to-video", 54, 80),
            ("pro-image-to-video", 54, 80),
            ("std-text-to-video", 40, 60),
            ("std-image-to-video", 40, 60),
            ("o3-pro-text-to-video", 48, 48),
            ("o3-pro-image-to-video", 48, 48),
            ("o3-pro-reference-to-video", 72, 72),
            ("o3-std-text-to-video", 36, 36),
            ("o3-std-image-to-video", 36, 36),
            ("o3-std-reference-to-video", 20, 20),
        ];
        for (name, silent, sound) in listed {
            let product = Product::find(name).unwrap();
            for seconds in 3..=15 {
                assert_eq!(product.credits(seconds, false), silent * seconds, "{name}");
                assert_eq!(product.credits(seconds, true), sound * seconds, "{name}");
            }
        }
        for (name, credits) in [("o3-pro-video-edit", 435), ("o3-std-video-edit", 360)] {
            assert_eq!(Product::find(name).unwrap().credits(15, true), credits, "{name}");
        }
        assert_eq!(listed.len() + 2, PRODUCTS.len());
    }

    #[test]
    fn ids_tell_the_backend() {
        let kling = Product::find("pro-text-to-video").unwrap().new_task_id();
        assert!(kling.starts_with("n75") && kling.ends_with("kling3"), "{kling}");
        let o3 = Product::find("o3-std-video-edit").unwrap().new_task_id();
        assert!(o3.starts_with("n71") && o3.ends_with("klingo3"), "{o3}");
    }
}
