// Node runs the client as it is written: its imports name files with their endings.
import { defineConfig } from "@hey-api/openapi-ts";

export default defineConfig(
    ["data", "admin"].map((plane) => ({
        input: `${plane}.json`,
        output: { path: `hey_${plane}`, module: { extension: ".ts" } },
        logs: { file: false },
    })),
);
