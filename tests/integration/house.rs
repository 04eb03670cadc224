//! Rules of the source text and of the schema.

mod ambiguous_input;
mod architecture;
mod definitions;
mod schema;
