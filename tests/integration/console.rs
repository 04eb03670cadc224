//! The console: pages for people, on both listeners.

mod invitations;
mod operators;
mod pages;
mod playground;
mod providers;
mod sessions;
