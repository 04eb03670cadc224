//! Rules of the source text and of the schema.

mod architecture;
mod columns;
mod definitions;
mod matches;
mod schema;
mod statements;
mod words;
