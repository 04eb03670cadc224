//! The console: pages for people, on both listeners.

mod operators;
mod pages;
mod playground;
mod providers;
mod sessions;
