//! The values of a filter, of which a visitor chooses one.

/// One of the values of a filter.
pub(in crate::console) struct Choice {
    pub(in crate::console) value: String,
    pub(in crate::console) text: String,
    pub(in crate::console) is_chosen: bool,
}

impl Choice {
    pub(in crate::console) fn new(value: &str, text: &str, chosen: &str) -> Self {
        Self { value: value.to_owned(), text: text.to_owned(), is_chosen: value == chosen }
    }
}

/// Values with their texts, of which `chosen` is chosen.
pub(in crate::console) fn choices<'a>(
    of: impl IntoIterator<Item = (&'a str, &'a str)>,
    chosen: &str,
) -> Vec<Choice> {
    of.into_iter().map(|(value, text)| Choice::new(value, text, chosen)).collect()
}

/// How many months can be chosen.
const MONTHS: usize = 13;

/// This month and the ones before it, newest first: `2026-11`.
pub(in crate::console) fn months(this: &str) -> Vec<String> {
    let Some((year, month)) = this.split_once('-') else { return Vec::new() };
    let (Ok(mut year), Ok(mut month)) = (year.parse::<i32>(), month.parse::<u32>()) else {
        return Vec::new();
    };
    let mut months = Vec::with_capacity(MONTHS);
    for _ in 0..MONTHS {
        months.push(format!("{year:04}-{month:02}"));
        (year, month) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    }
    months
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_go_back_over_the_turn_of_the_year() {
        let months = months("2026-02");
        assert_eq!((months.len(), months[1].as_str(), months[2].as_str()), (13, "2026-01", "2025-12"));
        assert!(super::months("nonsense").is_empty());
    }
}
