//! The console: pages for people, on both listeners.

mod pages;
mod playground;
mod sessions;
