//! Letting a user in at the console without a key, and ending its sessions there.

use axum::Json;
use axum::http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::call::{ApiCall, WriteCall};
use super::problem::Problem;
use crate::access::sessions;
use crate::ids::UserId;

/// A link that opens one session at the console.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invitation {
    user_id: UserId,
    /// The whole link, where `console.public_url` is set; else null.
    url: Option<String>,
    /// The link below the address by which people reach the data listener. It cannot be shown again.
    path: String,
    /// When the link ends, if nobody uses it.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// Invite a user to the console
///
/// Makes a link that opens one session of this user, once, within 15 minutes: whoever has the link is the user. The session needs
/// no key. It ends as every session does (8 hours without use, 24 hours), and as soon as the user is suspended or deleted, or its
/// sessions are ended. A user has at most five such links: a sixth ends the oldest.
#[utoipa::path(
    post, path = "/admin/v1/users/{user_id}/invitations", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    responses((status = 201, description = "The link", body = Invitation)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_invitation(
    call: WriteCall<UserId>,
) -> Result<(StatusCode, Json<Invitation>), Problem> {
    let ApiCall { database, path: user_id, console, .. } = call;
    if !console.enabled {
        return Err(Problem::Conflict(
            "the console is switched off (console.enabled): a link leads nowhere".into(),
        ));
    }
    let (text, expires_at) = sessions::invite(&database, user_id).await?;
    let path = format!("/console/link/{}", text.expose());
    let url = console.address_of(&path).map(Into::into);
    Ok((StatusCode::CREATED, Json(Invitation { user_id, url, path, expires_at })))
}

/// The sessions that were ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndedSessions {
    user_id: UserId,
    /// How many there were, with those that were not used for long.
    ended_sessions: i64,
}

/// End a user's sessions
///
/// Signs the user out of the console in every browser, whatever it signed in by, and ends its open invitations. It may sign in
/// again, unless its keys are revoked, its identities unlinked, or the user is suspended.
#[utoipa::path(
    post, path = "/admin/v1/users/{user_id}/end-sessions", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    responses((status = 200, description = "How many sessions were ended", body = EndedSessions)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn end_user_sessions(call: WriteCall<UserId>) -> Result<Json<EndedSessions>, Problem> {
    let ApiCall { database, path: user_id, .. } = call;
    let ended_sessions = database.end_sessions(user_id).await?;
    Ok(Json(EndedSessions { user_id, ended_sessions }))
}
