// The clients that @hey-api/openapi-ts has made of both documents.
import assert from "node:assert/strict";
import { client as adminClient } from "./hey_admin/client.gen.ts";
import { listOrgs } from "./hey_admin/sdk.gen.ts";
import { client as dataClient } from "./hey_data/client.gen.ts";
import { generate, status } from "./hey_data/sdk.gen.ts";

const env = (name: string): string => process.env[name] ?? assert.fail(name);

adminClient.setConfig({ baseUrl: env("ADMIN_URL"), auth: env("OPERATOR_TOKEN") });
const orgs = await listOrgs({ query: { limit: 1 } });
const [org] = orgs.data?.items ?? [];
assert(org, JSON.stringify(orgs.error));

dataClient.setConfig({ baseUrl: env("DATA_URL"), auth: env("API_KEY") });
const created = await generate({
    headers: { "Idempotency-Key": "hey-api" },
    body: { type: "o3-std-text-to-video", prompt: "A paper boat on a pond", duration: 3 },
});
assert(created.data, JSON.stringify(created.error));
const { task_id, consumed_credits } = created.data.data;
const state = await status({ query: { task_id } });
assert.equal(state.data?.data.task_id, task_id);
console.log(`${task_id}: ${state.data?.data.status}, ${consumed_credits} credits`);
const refused = await generate({ body: { type: "o3-std-text-to-video", prompt: " " } });
assert.equal(refused.error?.error, "INVALID_PROMPT");
