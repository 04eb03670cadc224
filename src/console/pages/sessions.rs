//! The sessions of the visitor's key or token, which can be ended.

use crate::access::callers::Caller;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::trouble::redirect;
use crate::console::view::When;
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "sessions.html")]
struct SessionsPage {
    shell: Shell,
    sessions: Vec<SessionLine>,
    /// What the sessions were opened with, and end with.
    with: &'static str,
}

struct SessionLine {
    began: When,
    used: When,
    is_this: bool,
}

pub(in crate::console) async fn sessions(visit: Visit) -> Outcome {
    let (zone, shell, with) = match visit.caller().clone() {
        Caller::Operator(_) => (Zone::named("UTC"), visit.operator("Sessions").await, "token"),
        Caller::Tenant(principal) => {
            let (member, shell) = visit.member("Sessions").await?;
            (member.zone, shell, if principal.key.is_some() { "key" } else { "account" })
        }
    };
    let line = |one: crate::access::sessions::Session| SessionLine {
        began: When::new(&zone, one.created_at),
        used: When::new(&zone, one.seen_at),
        is_this: one.is_this,
    };
    let sessions = visit.sessions().await?.into_iter().map(line).collect();
    Ok(html(&SessionsPage { shell, sessions, with }))
}

/// Ends the other sessions.
pub(in crate::console) async fn end_others(visit: Visit) -> Outcome {
    visit.end_other_sessions().await?;
    Ok(redirect(&visit.link("/sessions?done=ended")))
}
