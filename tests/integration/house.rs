//! Rules of the source text and of the schema.

mod architecture;
mod deadline;
mod schema;
mod tests;
