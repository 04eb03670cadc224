//! What surrounds a page: title, navigation, organisation, balance, theme.

use std::fmt::Display;
use std::sync::Arc;

use super::Console;
use super::answers::{Balance, Me};
use super::assets::{ICON, POSTER, SCRIPT, STYLE};
use super::attention::{Attention, Health};
use super::client::Problem;
use super::cookies::Theme;
use super::refusal::{Form, Refusal};
use super::view::{Actor, Money};
use super::visit::Visit;
use super::zone::Zone;
use crate::access::callers::Caller;
use crate::store::OperatorRole;

/// What a page without a session needs.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    pub(super) title: String,
    /// What stands before every link.
    pub(super) base: String,
    pub(super) theme: Theme,
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
    /// Stands where a video is that was not loaded yet.
    pub(super) poster: String,
}

impl Bare {
    pub(super) fn new(console: &Console, theme: Theme, title: &str) -> Self {
        let asset = |name: &str| format!("{}/console/assets/{name}", console.base());
        Self {
            title: title.to_owned(),
            base: console.base().to_owned(),
            theme,
            style: asset(&STYLE.name),
            script: asset(&SCRIPT.name),
            icon: asset(&ICON.name),
            poster: asset(&POSTER.name),
        }
    }
}

/// An entry of the navigation.
#[derive(Debug, Clone)]
pub(super) struct NavItem {
    /// The place below `/console`.
    pub(super) place: &'static str,
    pub(super) text: &'static str,
    pub(super) is_here: bool,
}

/// What surrounds a page of a signed-in caller.
#[derive(Debug, Clone)]
pub(super) struct Shell {
    pub(super) bare: Bare,
    pub(super) nav: Vec<NavItem>,
    /// The organisation; of operators: that they are.
    pub(super) org: String,
    /// The user or operator.
    pub(super) who: String,
    pub(super) role: &'static str,
    pub(super) balance: Option<Money>,
    pub(super) held: Option<Money>,
    pub(super) suspended: bool,
    /// The page's own address, to come back to after a change of the theme.
    pub(super) here: String,
    /// What was just done, from the address.
    pub(super) notice: Option<&'static str>,
    /// Why the form was refused that led to this page.
    pub(super) refusal: Option<Arc<Refusal>>,
    /// What needs a person: lines that are shown on every page of operators.
    pub(super) banner: Vec<Attention>,
    /// Whether the operator may change anything.
    pub(super) may_change: bool,
    /// Where scripts are off: when a page that changes by itself is loaded again, and from where.
    pub(super) refresh: Option<Refresh>,
    /// The page would change by itself, but has been looked at for long enough.
    pub(super) is_tired: bool,
}

/// How often a page is loaded again where scripts are off: for some minutes.
const MOST_LOOKS: u32 = 60;

/// When a page is loaded again, and from where.
#[derive(Debug, Clone)]
pub(super) struct Refresh {
    pub(super) seconds: u32,
    pub(super) to: String,
}

/// The navigation of members: place, text, and whether it is for admins only.
const MEMBERS: &[(&str, &str, bool)] = &[
    ("", "Start", false),
    ("/playground", "Playground", false),
    ("/clips", "Clips", false),
    ("/keys", "Keys", false),
    ("/budgets", "Budgets", false),
    ("/usage", "Usage", false),
    ("/statement", "Statement", true),
    ("/people", "People and teams", true),
];

const OPERATORS: &[(&str, &str)] = &[
    ("", "Organisations"),
    ("/tasks", "Find a task"),
    ("/running", "Running tasks"),
    ("/doubts", "Doubts"),
    ("/losses", "Losses"),
    ("/drift", "Drift"),
    ("/prices", "Price books"),
    ("/gateways", "Gateways"),
    ("/audit", "Audit log"),
    ("/operators", "Operators"),
    ("/providers", "Identity providers"),
];

/// What a page may say was just done; the address has the word only.
const NOTICES: &[(&str, &str)] = &[
    ("erased", "The content of this clip was deleted."),
    ("saved", "Saved."),
    ("revoked", "The key was revoked."),
    ("policy", "Saved. It holds for keys that members create from now on."),
    ("deleted", "Deleted."),
    ("asked", "Sent. The answer of an admin will be shown here."),
    ("granted", "Granted. The budget is raised until the raise ends by itself."),
    ("declined", "Declined."),
    ("created", "Created."),
    ("ended", "The other sessions were ended."),
    ("signed_out", "The user is signed out in every browser."),
    ("suspended", "Suspended: creates are refused, and what runs ends as usual."),
    ("unsuspended", "The organisation may create tasks again."),
    ("booked", "Booked."),
    ("resumed", "Creates go on, and the exposure counts from 0."),
    ("scheduled", "Scheduled."),
    ("in_force", "The price book is in force."),
    ("unscheduled", "Unscheduled: it is a draft again."),
    ("settled", "Recorded. The task is polled until the video service reports its end."),
    ("released", "Released: nothing is charged."),
    ("taken_back", "Taken back."),
    ("adopted", "Adopted. The task is polled until the video service reports its end."),
    ("token_revoked", "The token was revoked."),
];

impl Shell {
    fn new(visit: &Visit, title: &str, nav: Vec<NavItem>) -> Self {
        let done = visit.query().text("done");
        Self {
            bare: Bare::new(&visit.console, visit.theme, title),
            nav,
            org: String::new(),
            who: String::new(),
            role: "",
            balance: None,
            held: None,
            suspended: false,
            here: visit.path.clone(),
            banner: Vec::new(),
            may_change: false,
            refusal: visit.refusal().cloned(),
            notice: NOTICES.iter().find(|(word, _)| *word == done).map(|(_, text)| *text),
            refresh: None,
            is_tired: false,
        }
    }

    /// The form that is sent to `place`: it has what was typed if it was refused.
    pub(super) fn form(&self, place: impl Display) -> Form<'_> {
        Refusal::of(self.refusal.as_deref(), place)
    }

    /// A page that changes by itself is loaded again after so many seconds where scripts are off. The address counts, so that this
    /// ends: a page that was forgotten in a tab asks for nothing any more.
    pub(super) fn refreshed(self, visit: &Visit, seconds: Option<u32>) -> Self {
        let Some(seconds) = seconds else { return self };
        let query = visit.query();
        let looks = query.get("look").and_then(|look| look.parse().ok()).unwrap_or(0_u32).saturating_add(1);
        if looks > MOST_LOOKS {
            return Self { is_tired: true, ..self };
        }
        let (base, path) = (visit.base(), &visit.path);
        let others = query.query_without(&["look", "done"]);
        let with = if others.is_empty() { String::new() } else { format!("{others}&") };
        Self { refresh: Some(Refresh { seconds, to: format!("{base}{path}?{with}look={looks}") }), ..self }
    }
}

/// A signed-in member: who it is, and what it has.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) me: Me,
    pub(super) balance: Balance,
    pub(super) zone: Zone,
}

impl Visit {
    /// Who is visiting, and what surrounds its page. Two calls.
    pub(super) async fn member(&self, title: &str) -> Result<(Member, Shell), Problem> {
        let (me, balance) =
            tokio::try_join!(self.client.read::<Me>("/api/me"), self.client.read::<Balance>("/api/credits"))?;
        let nav = MEMBERS.iter().filter(|(_, _, for_admins)| !for_admins || me.is_admin());
        let nav = nav.map(|(place, text, _)| self.nav_item(place, text)).collect();
        let shell = Shell {
            org: me.organisation.name.clone(),
            who: me.user.name.clone(),
            role: if me.is_admin() { "Admin" } else { "Member" },
            balance: Some(Money(balance.available)),
            held: (balance.held > 0).then_some(Money(balance.held)),
            suspended: me.suspended,
            ..Shell::new(self, title, nav)
        };
        let zone = Zone::named(&me.organisation.time_zone);
        Ok((Member { me, balance, zone }, shell))
    }

    /// What surrounds a page of an operator, with what needs a person. One call.
    pub(super) async fn operator(&self, title: &str) -> Shell {
        self.operator_with(title).await.0
    }

    /// The same, with the state of the platform that the page may show in full.
    pub(super) async fn operator_with(&self, title: &str) -> (Shell, Option<Health>) {
        let nav = OPERATORS.iter().map(|(place, text)| self.nav_item(place, text)).collect();
        let (who, role) = match self.caller() {
            // The role stands below the name.
            Caller::Operator(operator) => {
                (Actor(operator.name.clone()).short().replacen("operator ", "", 1), operator.role)
            }
            Caller::Tenant(_) => (String::new(), OperatorRole::OperatorRead),
        };
        // A page is shown even if this one call fails: it then says so.
        let health = self.client.look::<Health>("/admin/v1/health").await.ok();
        let shell = Shell {
            org: "Operations".into(),
            who,
            role: match role {
                OperatorRole::Operator => "Operator",
                OperatorRole::OperatorRead => "Read-only operator",
            },
            may_change: role == OperatorRole::Operator,
            banner: health.as_ref().map_or_else(Attention::unknown, Health::attention),
            ..Shell::new(self, title, nav)
        };
        (shell, health)
    }

    fn nav_item(&self, place: &'static str, text: &'static str) -> NavItem {
        let here = self.path.strip_prefix("/console").unwrap_or_default();
        let is_here = if place.is_empty() {
            here.is_empty() || here.starts_with("/orgs/")
        } else {
            here == place || here.starts_with(&format!("{place}/"))
        };
        NavItem { place, text, is_here }
    }
}
