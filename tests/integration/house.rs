//! Rules of the source text, of the documents and of the schema.

mod ambiguous_input;
mod architecture;
mod columns;
mod deadline;
mod definitions;
mod docs;
mod matches;
mod names;
mod papers;
mod schema;
mod statements;
mod tests;
mod words;
