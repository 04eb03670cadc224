//! Tollgate: a gateway that lets many teams share one paid video-generation account.

pub mod postgres;
