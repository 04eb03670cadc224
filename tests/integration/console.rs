//! The console: pages for people, on both listeners.

mod bounds;
mod forms;
mod invitations;
mod labels;
mod operators;
mod pages;
mod people;
mod playground;
mod providers;
mod sessions;
