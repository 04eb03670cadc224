//! The console: pages for people, on both listeners.

mod bounds;
mod forms;
mod labels;
mod operators;
mod pages;
mod playground;
mod sessions;
