//! What a demo prints when it is ready.

use serde_json::json;

use super::MASTER_KEY;
use crate::cli::output;
use crate::ids::OrgId;
use crate::secret::Secret;

pub(super) struct Ready {
    pub base_url: String,
    pub admin_url: String,
    /// Links that open one session of the console each.
    pub console_url: String,
    pub operators_url: String,
    pub key: Secret,
    pub operator_token: Secret,
    pub org: OrgId,
    pub simulator_url: String,
    pub database_url: Secret,
}

impl Ready {
    pub(super) fn print_json(&self) {
        output::note(json!({
            "base_url": self.base_url,
            "admin_url": self.admin_url,
            "console_url": self.console_url,
            "operators_console_url": self.operators_url,
            "api_key": self.key.expose(),
            "operator_token": self.operator_token.expose(),
            "org_id": self.org,
            "simulator_url": self.simulator_url,
            "simulator_key": MASTER_KEY,
            "database_url": self.database_url.expose(),
        }));
    }

    pub(super) fn print(&self) {
        let Self { base_url, admin_url, console_url, operators_url, org, simulator_url, .. } = self;
        let database_url = self.database_url.expose();
        let key = self.key.expose();
        let token = self.operator_token.expose();
        let program =
            std::env::current_exe().map_or_else(|_| "tollgate".into(), |path| path.display().to_string());
        output::note(format_args!(
            r#"
Tollgate is ready. Ctrl-C stops everything; the data stays.

  gateway      {base_url}
  API key      {key}
  organisation {org}
  operations   {admin_url}/readyz  {admin_url}/metrics
  management   {admin_url}/admin/v1
  simulator    {simulator_url}/_sim/books
  database     {database_url}

Open the console, signed in; each link works once, for 15 minutes:

  members      {console_url}
  operators    {operators_url}

Create a task:

  curl -X POST '{base_url}/api/generate' \
    -H 'Authorization: Bearer {key}' \
    -H 'Content-Type: application/json' \
    -d '{{"type":"pro-text-to-video","prompt":"A cinematic shot of mountains at sunrise","duration":5,"aspect_ratio":"16:9"}}'

Show the state of the task, with the task_id of that answer:

  curl '{base_url}/api/status?task_id=TASK_ID' -H 'Authorization: Bearer {key}'

See a refusal, which costs nothing:

  curl -X POST '{base_url}/api/generate' -H 'Authorization: Bearer {key}' -d '{{"type":"pro-text-to-video","prompt":""}}'

Show the balance:

  curl '{base_url}/api/credits' -H 'Authorization: Bearer {key}'

Use the management API, as an operator:

  export TOLLGATE_ADMIN_URL='{admin_url}' TOLLGATE_ADMIN_TOKEN='{token}'
  {program} admin org list
"#
        ));
    }
}
