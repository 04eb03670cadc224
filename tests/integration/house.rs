//! Rules of the source text and of the schema.

mod architecture;
mod definitions;
mod schema;
