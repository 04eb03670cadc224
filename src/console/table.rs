//! Tables and lists of facts, whose cells are the pieces of `view`. A table scrolls within its own box where there is no room.

use std::fmt::{self, Display, Formatter};

use askama::filters::HtmlSafe;
use time::OffsetDateTime;

use super::view::{Id, When, escaped, grouped};
use super::zone::Zone;

/// What stands in a cell: HTML of a piece of a page, or a text whose markup is escaped.
#[derive(Debug, Clone)]
pub(super) struct Cell(String);

impl Cell {
    pub(super) fn of(piece: impl HtmlSafe) -> Self {
        Self(piece.to_string())
    }

    /// HTML whose parts the caller has escaped.
    pub(super) fn html(html: String) -> Self {
        Self(html)
    }

    /// A text that people or the vendor may have chosen.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self(format!("<bdi>{}</bdi>", escaped(text.as_ref())))
    }

    /// A word that no line may break, such as a type of tasks.
    pub(super) fn word(text: impl AsRef<str>) -> Self {
        Self(format!(r#"<bdi class="word">{}</bdi>"#, escaped(text.as_ref())))
    }

    /// What is of less weight, such as why there is nothing.
    pub(super) fn fine(text: impl AsRef<str>) -> Self {
        Self(format!(r#"<span class="fine">{}</span>"#, escaped(text.as_ref())))
    }

    /// A text as it is in a program.
    pub(super) fn code(text: impl AsRef<str>) -> Self {
        Self(format!("<code>{}</code>", escaped(text.as_ref())))
    }

    pub(super) fn number(number: i64) -> Self {
        Self(grouped(number))
    }

    /// A number with its sign, for differences.
    pub(super) fn signed(number: i64) -> Self {
        Self(if number > 0 { format!("+{}", grouped(number)) } else { grouped(number) })
    }

    /// The number, or what it means that there is none.
    pub(super) fn number_or(number: Option<i64>, none: &str) -> Self {
        number.map_or_else(|| Self::fine(none), Self::number)
    }

    pub(super) fn text_or(text: Option<&str>, none: &str) -> Self {
        text.map_or_else(|| Self::fine(none), Self::text)
    }

    pub(super) fn when(zone: &Zone, at: OffsetDateTime) -> Self {
        Self::of(When::new(zone, at))
    }

    pub(super) fn when_or(zone: &Zone, at: Option<OffsetDateTime>, none: &str) -> Self {
        at.map_or_else(|| Self::fine(none), |at| Self::when(zone, at))
    }

    pub(super) fn id(id: &str) -> Self {
        Self::of(Id(id.to_owned()))
    }

    pub(super) fn id_or(id: Option<&str>, none: &str) -> Self {
        id.map_or_else(|| Self::fine(none), Self::id)
    }

    /// An id that leads to the page about it.
    pub(super) fn id_link(id: &str, to: &str) -> Self {
        Self(Id(id.to_owned()).linked(to))
    }

    /// This as a link. It must hold no other one.
    pub(super) fn link(self, to: &str) -> Self {
        Self(format!(r#"<a href="{}">{}</a>"#, escaped(to), self.0))
    }

    /// This with another one below it.
    pub(super) fn over(self, below: &Self) -> Self {
        Self(format!("{}<br>{}", self.0, below.0))
    }

    /// This with another one behind it.
    pub(super) fn and(self, behind: &Self) -> Self {
        Self(format!("{} {}", self.0, behind.0))
    }
}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Cell {}

/// A column: its head, and on which side its cells stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    /// Numbers stand at the right.
    Number(&'static str),
}

/// A table. The first cell of a row is its head.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// What the table is about, for those who do not see it.
    pub(super) caption: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
    /// What it means that there is no row.
    pub(super) empty: &'static str,
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return write!(f, r#"<p class="empty">{}</p>"#, escaped(self.empty));
        }
        let caption = escaped(self.caption);
        write!(f, r#"<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table>"#)?;
        write!(f, r#"<caption class="hidden">{caption}</caption><thead><tr>"#)?;
        for column in self.columns {
            match column {
                Column::Text(head) => write!(f, r#"<th scope="col">{}</th>"#, escaped(head))?,
                Column::Number(head) => {
                    write!(f, r#"<th scope="col" class="number">{}</th>"#, escaped(head))?
                }
            }
        }
        f.write_str("</tr></thead><tbody>")?;
        for row in &self.rows {
            f.write_str("<tr>")?;
            for (at, (cell, column)) in row.iter().zip(self.columns).enumerate() {
                let class = if matches!(column, Column::Number(_)) { r#" class="number""# } else { "" };
                if at == 0 {
                    write!(f, r#"<th scope="row"{class}>{cell}</th>"#)?;
                } else {
                    write!(f, "<td{class}>{cell}</td>")?;
                }
            }
            f.write_str("</tr>")?;
        }
        f.write_str("</tbody></table></div>")
    }
}

impl HtmlSafe for Table {}

/// Names and what stands for them.
#[derive(Debug, Clone)]
pub(super) struct Facts(pub(super) Vec<(&'static str, Cell)>);

impl Display for Facts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(r#"<dl class="facts">"#)?;
        for (name, cell) in &self.0 {
            write!(f, "<dt>{}</dt><dd>{cell}</dd>", escaped(name))?;
        }
        f.write_str("</dl>")
    }
}

impl HtmlSafe for Facts {}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>\"'";

    #[test]
    fn no_cell_prints_markup_that_it_was_given() {
        let cells = [
            Cell::text(HOSTILE),
            Cell::fine(HOSTILE),
            Cell::code(HOSTILE),
            Cell::text_or(Some(HOSTILE), "none"),
            Cell::id_link(HOSTILE, HOSTILE),
            Cell::number(1).link(HOSTILE),
        ];
        for cell in cells {
            let shown = cell.to_string();
            assert!(!shown.contains("<script") && !shown.contains("\"'"), "{shown}");
        }
    }

    #[test]
    fn a_table_has_heads_for_columns_and_rows_and_words_where_it_is_empty() {
        let columns = &[Column::Text("Name"), Column::Number("Credits")];
        let row = vec![Cell::text("a"), Cell::number(1_000)];
        let table = Table { caption: "Things", columns, rows: vec![row], empty: "Nothing yet." };
        let shown = table.to_string();
        for part in [
            r#"<caption class="hidden">Things"#,
            r#"<th scope="col" class="number">Credits"#,
            r#"<th scope="row"><bdi>a"#,
            r#"<td class="number">1,000"#,
            r#"tabindex="0""#,
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(Table { rows: Vec::new(), ..table }.to_string().contains("Nothing yet."));
    }
}
