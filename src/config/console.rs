//! The settings of the console.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Origin, Url};

use super::check::Check;

/// The pages for people, on both listeners.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// Serve `/console`: for members and admins of organisations on the data listener, for operators on the operations listener.
    pub enabled: bool,
    /// URL of the gateway as browsers see it, if a proxy stands before it or people sign in by identity providers: `https://videos.example.com`, or with the path that the
    /// proxy takes away, `https://example.com/videos/`. Links of the console begin with its path, and forms are accepted from its origin.
    /// The providers send people back to it.
    pub public_url: Option<Url>,
    /// Origins from which the console may show videos, such as `https://cdn.vendor.example`; `https:` for all. The links of other
    /// videos are shown, and opened in a page of their own.
    pub media_hosts: Vec<String>,
}

impl Default for Console {
    fn default() -> Self {
        Self { enabled: true, public_url: None, media_hosts: Vec::new() }
    }
}

impl Console {
    /// What stands before `/console` in every link: the path of `public_url` without a slash at its end.
    pub fn base(&self) -> &str {
        self.public_url.as_ref().map_or("", |url| url.path().trim_end_matches('/'))
    }

    /// The address of a place of the console as browsers see it; none without `public_url`.
    pub fn address_of(&self, place: &str) -> Option<Url> {
        let mut url = self.public_url.clone()?;
        url.set_path(&format!("{}{place}", self.base()));
        Some(url)
    }

    /// The origin of `public_url`, as browsers send it.
    pub fn origin(&self) -> Option<String> {
        self.public_url.as_ref().map(|url| url.origin().ascii_serialization())
    }

    pub(super) fn check(&self, check: &mut Check<'_>) {
        if let Some(url) = &self.public_url {
            let plain =
                url.path().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
            let web = ["https", "http"].contains(&url.scheme()) && url.host().is_some();
            let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
            if !(web && bare && plain && url.password().is_none() && !url.path().contains("//")) {
                let right = "a URL such as https://videos.example.com or https://example.com/videos/, without a user, a query and \
                             a fragment";
                check.wrong("console.public_url", format!("'{url}'"), right);
            }
        }
        for host in &self.media_hosts {
            if host != "https:" && !is_origin(host) {
                let right =
                    "a list of origins such as https://cdn.example.com, without a path; or https: for all";
                check.wrong("console.media_hosts", format!("'{host}'"), right);
            }
        }
    }
}

/// Whether a text is an origin as a content policy names it.
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        ["https", "http"].contains(&url.scheme())
            && matches!(url.origin(), Origin::Tuple(..))
            && url.origin().ascii_serialization() == text
    })
}
