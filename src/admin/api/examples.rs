//! Examples of the bodies that the management API takes, for its document.

use serde_json::{Value, json};

const USER: &str = "usr_0192f3a4b5c6d7e8f90112233445566a";
const TEAM: &str = "team_0192f3a4b5c6d7e8f90112233445566b";
const ORG: &str = "org_0192f3a4b5c6d7e8f90112233445566c";
const OTHER_ORG: &str = "org_0192f3a4b5c6d7e8f90112233445566d";
const PROVIDER: &str = "idp_0192f3a4b5c6d7e8f90112233445566e";
const LATER: &str = "2027-01-31T18:00:00Z";

/// An example of the body with this schema.
pub(super) fn of(schema: &str) -> Option<Value> {
    who(schema).or_else(|| money(schema)).or_else(|| tasks(schema))
}

/// Organisations and their people.
fn who(schema: &str) -> Option<Value> {
    Some(match schema {
        "OrgBody" => json!({"name": "Studio North", "time_zone": "Europe/Istanbul"}),
        "OrgPatch" => json!({"create_per_minute": 60, "max_open_tasks": 50}),
        "RestoreBody" => json!({"name": "Studio North"}),
        "QuotasPatch" => json!({"users": 500, "keys": 2000}),
        "RetentionPatch" => json!({"content_days": 30}),
        "TeamBody" => json!({"name": "Trailers"}),
        "TeamPatch" => json!({"status": "suspended"}),
        "UserBody" => json!({"name": "Ada", "role": "member", "team_id": TEAM}),
        "UserPatch" => json!({"role": "admin", "team_id": null}),
        "ForgetBody" => json!({"erase_content": true}),
        "KeyBody" => json!({
            "user_id": USER, "name": "render farm", "expires_at": LATER, "allowed_types": ["std-text-to-video"],
            "allowed_networks": ["10.0.0.0/8"], "create_per_minute": 10,
        }),
        "KeyPatch" => json!({"name": "render farm 2", "status": "suspended"}),
        "RotationBody" => json!({"overlap_seconds": 86400}),
        "KeyPolicyPatch" => {
            json!({"enabled": true, "max_keys": 3, "max_days": 90, "key_budget": {"period": "monthly", "credits": 5000}})
        }
        "TokenBody" => json!({"name": "night shift", "role": "operator_read", "expires_at": LATER}),
        "ProviderBody" => json!({
            "name": "Keycloak", "issuer": "https://login.example.com/realms/studio", "audiences": ["tollgate"],
            "jwks_url": "https://login.example.com/realms/studio/protocol/openid-connect/certs", "org_id": ORG,
            "role_claim": "role", "create_users": true,
        }),
        "ProviderPatch" => json!({"leeway_seconds": 30}),
        "IdentityBody" => json!({"provider_id": PROVIDER, "subject": "248289761001", "user_id": USER}),
        _ => return None,
    })
}

/// Credits, budgets and prices.
fn money(schema: &str) -> Option<Value> {
    Some(match schema {
        "GrantBody" => json!({
            "credits": 100_000, "reason": "bought in January", "external_ref": "INV-2027-0042", "expires_at": LATER,
        }),
        "AdjustmentBody" => {
            json!({"credits": -500, "reason": "granted twice", "external_ref": "INV-2027-0042"})
        }
        "TransferBody" => {
            json!({"from_org": ORG, "to_org": OTHER_ORG, "credits": 2000, "reason": "lent for the launch"})
        }
        "OverdraftBody" => json!({"overdraft": 10_000}),
        "CreditsPatch" => json!({"low_threshold": 5000}),
        "ResumeBody" => json!({"reason": "the doubts were resolved with the vendor"}),
        "BudgetBody" => json!({
            "level": "user", "subject_id": USER, "period": "monthly", "credits": 20_000, "thresholds": [80, 100],
        }),
        "BudgetPatch" => json!({"credits": 30_000}),
        "RaiseBody" => json!({"credits": 40_000, "until": LATER}),
        "NewRequestBody" => json!({
            "level": "user", "period": "monthly", "credits": 30_000, "until": LATER, "reason": "the trailer is due",
        }),
        "BudgetRequestGrant" => json!({"credits": 25_000, "answer": "until the trailer is out"}),
        "BudgetRequestDecline" => json!({"answer": "please wait for February"}),
        "BookBody" => json!({"name": "2027", "copy_of": 1}),
        "BookPatch" => json!({"name": "2027, second draft"}),
        "PriceBody" => json!({"unit": "second", "credits": 54, "credits_with_audio": 80}),
        "ActivateBody" => json!({"at": LATER}),
        "RollbackBody" => json!({"from": 2}),
        "FactorBody" => {
            json!({"factor_bp": 9000, "valid_until": LATER, "reason": "a discount for the first year"})
        }
        "EndBody" => json!({"at": LATER}),
        _ => return None,
    })
}

/// What operators say about tasks.
fn tasks(schema: &str) -> Option<Value> {
    Some(match schema {
        "SettleBody" => {
            json!({"task_id": "n75b2c1d", "credits": 400, "reason": "found in the list of tasks of the vendor"})
        }
        "ReleaseBody" => json!({"reason": "not in the list of tasks of the vendor"}),
        "TakeBackBody" => json!({"reason": "it was another task"}),
        "AdoptBody" => json!({
            "user_id": USER, "backend": "kling-3.0", "task_id": "n75b2c1d", "reason": "its hold was lost by a restore",
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::super::{
        Audience, budget_requests, budgets, credits, document, evidence, identities, key_policy, keys,
        operators, orgs, price_books, price_factors, providers, quotas, retention, teams, users,
    };
    use super::*;

    /// Whether the body is read as a call's would be.
    fn is_read<T: DeserializeOwned>(schema: &str) -> bool {
        let body = of(schema).unwrap_or_else(|| panic!("{schema} has no example"));
        let read = crate::strict::read_object::<T>(body.to_string().as_bytes());
        read.map_err(|error| panic!("{schema}: {error}")).is_ok()
    }

    #[test]
    fn every_example_is_a_body_that_is_taken() {
        macro_rules! all {
            ($($module:ident: $($schema:ident),+;)+) => {
                [$($((stringify!($schema), is_read::<$module::$schema>(stringify!($schema)))),+),+]
            };
        }
        let mut read = Vec::from(all! {
            budget_requests: NewRequestBody, BudgetRequestGrant, BudgetRequestDecline;
            budgets: BudgetBody, BudgetPatch, RaiseBody;
            credits: GrantBody, AdjustmentBody, TransferBody, OverdraftBody, CreditsPatch, ResumeBody;
            evidence: SettleBody, ReleaseBody, TakeBackBody, AdoptBody;
            identities: IdentityBody;
            key_policy: KeyPolicyPatch;
            keys: KeyBody, KeyPatch, RotationBody;
            operators: TokenBody;
            orgs: OrgBody, OrgPatch, RestoreBody;
            price_books: BookBody, BookPatch, ActivateBody, RollbackBody;
            price_factors: FactorBody, EndBody;
            providers: ProviderBody, ProviderPatch;
            quotas: QuotasPatch;
            retention: RetentionPatch;
            teams: TeamBody, TeamPatch;
            users: UserBody, UserPatch, ForgetBody;
        });
        // What only describes the body of a price.
        read.push(("PriceBody", is_read::<crate::pricing::Tariff>("PriceBody")));
        let document = serde_json::to_value(document(Audience::Everybody)).unwrap();
        let items = document["paths"].as_object().unwrap().values();
        let operations = items.flat_map(|item| item.as_object().unwrap().values());
        let mut bodies = 0;
        for body in operations.filter_map(|operation| operation.get("requestBody")) {
            let content = &body["content"]["application/json"];
            let schema = content["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            assert!(content["example"].is_object(), "{schema}");
            assert!(read.iter().any(|(known, _)| *known == schema), "{schema} is not in this test");
            bodies += 1;
        }
        assert!(bodies >= read.len(), "{bodies}");
    }
}
