// Calls that are checked by the types that openapi-typescript has made of both documents.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths as AdminPaths } from "./typescript_admin.d.ts";
import type { paths as DataPaths } from "./typescript_data.d.ts";

const env = (name: string): string => process.env[name] ?? assert.fail(name);
const client = <Paths extends {}>(baseUrl: string, token: string) =>
    createClient<Paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const admin = client<AdminPaths>(env("ADMIN_URL"), env("OPERATOR_TOKEN"));
const orgs = await admin.GET("/admin/v1/orgs", { params: { query: { limit: 1 } } });
const [org] = orgs.data?.items ?? [];
assert(org, JSON.stringify(orgs.error));

const data = client<DataPaths>(env("DATA_URL"), env("API_KEY"));
const created = await data.POST("/api/generate", {
    params: { header: { "Idempotency-Key": "openapi-typescript" } },
    body: { type: "o3-std-text-to-video", prompt: "A paper boat on a pond", duration: 3 },
});
assert(created.data, JSON.stringify(created.error));
const task_id: string = created.data.data.task_id;
const state = await data.GET("/api/status", { params: { query: { task_id } } });
assert.equal(state.data?.data.task_id, task_id);
console.log(`${task_id}: ${state.data?.data.status}, ${created.data.data.consumed_credits} credits`);
const refused = await data.POST("/api/generate", { body: { type: "o3-std-text-to-video", prompt: " " } });
assert.equal(refused.error?.error, "INVALID_PROMPT");
