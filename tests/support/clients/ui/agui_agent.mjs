// What a program does with AG-UI's client (npm's @ag-ui/client): one function for each case. Prints their results as JSON.
// SERVICE and KEY are in the environment.
import { HttpAgent } from "@ag-ui/client";

const service = process.env.SERVICE;
const headers = { Authorization: `Bearer ${process.env.KEY}` };
const weather = {
  name: "weather",
  description: "The temperature in a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const agent = (threadId, initialMessages = []) =>
  new HttpAgent({ url: `${service}/api/agui`, headers, threadId, initialMessages });
const user = (content, id = crypto.randomUUID()) => ({ id, role: "user", content });
const shown = ({ role, content, toolCalls, toolCallId, error }) => ({
  role, content, calls: toolCalls?.map(({ function: { name, arguments: given } }) => [name, JSON.parse(given)]),
  result: toolCallId, error,
});

async function run(agent, options = {}, subscriber = {}) {
  const seen = [];
  const onEvent = ({ event }) => { seen.push(event); };
  const result = await agent.runAgent(options, { onEvent, ...subscriber });
  return { seen, result };
}

const cases = {
  async plain() {
    const one = agent("plain");
    one.addMessage(user("Good morning!"));
    const { seen } = await run(one, { runId: "run-1" });
    one.addMessage(user("And good night!"));
    await run(one);
    const finished = seen.at(-1);
    return {
      types: seen.map((event) => event.type), messages: one.messages.map(shown), run: finished.runId,
      outcome: finished.outcome, tokens: finished.usage?.[0], reply: one.messages[1].id,
    };
  },
  async reasoning() {
    const one = agent("reasoning");
    one.addMessage(user("What is 6 times 7?"));
    const { seen } = await run(one);
    return { types: [...new Set(seen.map((event) => event.type))], messages: one.messages.map(shown) };
  },
  async tools() {
    const one = agent("tools");
    one.addMessage(user("Compare Seoul and Busan."));
    await run(one, { tools: [weather] });
    for (const call of one.messages.at(-1).toolCalls) {
      const { city } = JSON.parse(call.function.arguments);
      one.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId: call.id, content: `${city} 21 °C` });
    }
    await run(one, { tools: [weather] });
    const again = agent("tools");
    await run(again);
    return { messages: one.messages.map(shown), history: again.messages.map(shown) };
  },
  async context() {
    const one = agent("context");
    one.addMessage({ id: "s", role: "system", content: "Be short." });
    one.addMessage(user("Who am I?"));
    await run(one, { context: [{ description: "The user's name", value: "Mina" }] });
    return { messages: one.messages.map(shown) };
  },
  async image() {
    const one = agent("image");
    const [head, value] = process.env.IMAGE.split(",");
    const source = { type: "data", value, mimeType: head.slice(5).split(";")[0] };
    one.addMessage(user([{ type: "text", text: "What is in this picture?" }, { type: "image", source }]));
    await run(one);
    const again = agent("image");
    await run(again);
    again.addMessage(user("Thank you."));
    await run(again);
    return { roles: again.messages.map((message) => message.role), last: again.messages.at(-1).content };
  },
  async repeated() {
    const message = user("Good morning!");
    const replies = [];
    for (let number = 0; number < 2; number += 1) {
      const one = agent("repeated", [message]);
      await run(one, { runId: "same" });
      replies.push(one.messages.at(-1).id);
    }
    return { same: replies[0] === replies[1] };
  },
  async cancelled() {
    const one = agent("cancelled");
    one.addMessage(user("Never end."));
    let stop;
    const onTextMessageContentEvent = async ({ event, textMessageBuffer }) => {
      if (stop !== undefined || textMessageBuffer + event.delta !== "Once upon ") return;
      const { sessions } = await (await fetch(`${service}/api/sessions?limit=1`, { headers })).json();
      const path = `/api/sessions/${sessions[0].session_id}/cancel`;
      stop = (await fetch(`${service}${path}`, { method: "POST", headers })).status;
    };
    const { seen } = await run(one, {}, { onTextMessageContentEvent });
    return { outcome: seen.at(-1).outcome, messages: one.messages.map(shown), stop };
  },
  async broken_off() {
    const one = agent("broken");
    one.addMessage(user("Break off."));
    const errors = [];
    await run(one, {}, { onRunErrorEvent: ({ event }) => { errors.push(event.code); } }).catch((error) => errors.push(error.name));
    return { errors, messages: one.messages.map(shown) };
  },
  async unknown_thread() {
    const one = agent("nothing-yet");
    const { seen } = await run(one);
    return { types: seen.map((event) => event.type), messages: one.messages };
  },
};

const results = {};
for (const [name, one] of Object.entries(cases)) results[name] = await one();
console.log(JSON.stringify(results));
process.exit(0);
