//! Prices: books, factors, quotes.

mod api;
mod books;
mod drafts;
mod factors;
mod history;
mod quotes;
mod what_if;
