//! Rules of the source text, of the documents and of the schema.

mod architecture;
mod papers;
mod schema;
