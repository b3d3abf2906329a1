// The calls that the README shows, with the types that openapi-typescript makes of /openapi.json, and no cast.
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

const client = createClient<paths>({
  baseUrl: process.argv[2],
  querySerializer: { object: { style: "form", explode: true } }, // as the document says of `metadata`
});

async function main() {
  const created = await client.POST("/api/sessions", { body: { metadata: { user_id: "example" } } });
  if (!created.data) throw new Error(created.error.detail);
  const { session_id } = created.data;
  await client.POST("/api/sessions");

  const answer = await client.POST("/api/chat", { body: { session_id, message: "안녕하세요!" } });
  if (answer.error) throw new Error(answer.error.detail);
  if ("content" in answer.data) console.log(answer.data.content);

  const streamed = await client.POST("/api/chat/stream", {
    body: { session_id, message: "What is my name?", max_new_tokens: 40 },
    parseAs: "text",
  });
  for (const line of String(streamed.data).split("\n")) {
    if (!line.startsWith("data: {")) continue;
    const frame: components["schemas"]["Frame"] = JSON.parse(line.slice("data: ".length));
    if (frame.type === "complete") console.log(frame.full_response, frame.finish_reason);
  }

  const accepted = await client.POST("/api/chat", {
    params: { header: { Prefer: "respond-async", "Idempotency-Key": "key-1" } },
    body: { session_id, message: "Later" },
  });
  if (accepted.data && "cursor" in accepted.data) console.log(accepted.response.status, accepted.data.message_id.length);

  const changed = await client.PATCH("/api/sessions/{session_id}", {
    params: { path: { session_id } },
    body: { title: "T", metadata: { tags: ["a", 1, null] } },
  });
  console.log(changed.data?.metadata["user_id"], changed.data?.title);

  const listed = await client.GET("/api/sessions", {
    params: { query: { limit: 10, metadata: { "metadata.user_id": "example" } } },
  });
  console.log(listed.data?.sessions.length);

  const history = await client.GET("/api/sessions/{session_id}/messages", {
    params: { path: { session_id }, query: { limit: 10 } },
  });
  if (!history.data) throw new Error(history.error.detail);
  for (const one of history.data.messages.slice(0, 2)) console.log(`${one.role}: ${one.content}`);

  const missing = await client.GET("/api/sessions/{session_id}", {
    params: { path: { session_id: "00000000-0000-4000-8000-000000000000" } },
  });
  console.log(missing.error?.type, missing.error?.status);
}

main();
