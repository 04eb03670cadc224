//! Rules of the source text, of the documents and of the schema.

mod ambiguous_input;
mod architecture;
mod deadline;
mod definitions;
mod docs;
mod papers;
mod schema;
mod tests;
