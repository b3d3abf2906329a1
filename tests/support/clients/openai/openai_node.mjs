// What a program does with npm's package openai, as its users write it: one function for each case. Prints their results
// as JSON. OPENAI_BASE_URL and OPENAI_API_KEY are in the environment.
import OpenAI from "openai";

const client = new OpenAI();
const model = process.env.MODEL;
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const schema = { type: "object", properties: { result: { type: "integer" } }, required: ["result"] };
const user = (content) => ({ role: "user", content });
const ask = (content, fields = {}, options = {}, before = []) =>
  client.chat.completions.create({ model, messages: [...before, user(content)], ...fields }, options);
const look = ({ id, function: { arguments: text } }) => ({
  role: "tool", tool_call_id: id, content: `${JSON.parse(text).city} 21 °C`,
});
const tokens = (usage) => [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens];
const called = (call) => [call.function.name, JSON.parse(call.function.arguments)];

async function read(stream) {
  let [text, reasoning, usage] = ["", "", null];
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    text += chunk.choices[0]?.delta.content ?? "";
    reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
  }
  return { text, reasoning, usage };
}

async function refused(request) {
  try {
    await request();
  } catch (error) {
    return [error.constructor.name, error.status, error.type, error.param, error.code];
  }
}

const cases = {
  async models() {
    const listed = [];
    for await (const one of client.models.list()) listed.push(one.id);
    const { id, object } = await client.models.retrieve(model);
    return { listed, retrieved: [id, object] };
  },
  async plain() {
    const fields = { temperature: 0.5, max_completion_tokens: 50, seed: 7, stop: ["\n"] };
    const answer = await ask("Good morning!", fields);
    const { message, finish_reason: finish } = answer.choices[0];
    return { text: message.content, finish, model: answer.model, tokens: tokens(answer.usage) };
  },
  async streamed() {
    const stream = client.chat.completions.stream({
      model, messages: [user("Good morning!")], stream_options: { include_usage: true },
    });
    const answer = await stream.finalChatCompletion();
    const { message, finish_reason: finish } = answer.choices[0];
    return { text: message.content, finish, tokens: tokens(answer.usage) };
  },
  async length() {
    const { message, finish_reason: finish } = (await ask("Go on until the limit.")).choices[0];
    return { text: message.content, finish };
  },
  async transcript() {
    const before = [
      { role: "developer", content: "Be short." },
      user("My name is Mina."),
      { role: "assistant", content: "Hello Mina." },
    ];
    return { text: (await ask("Who am I?", {}, {}, before)).choices[0].message.content };
  },
  async tools() {
    const question = "How warm is it in Seoul?", fields = { tools: [weather] };
    const { message, finish_reason: finish } = (await ask(question, fields)).choices[0];
    const messages = [user(question), message, ...message.tool_calls.map(look)];
    const last = await client.chat.completions.create({ model, messages, ...fields });
    return { calls: message.tool_calls.map(called), finish, text: last.choices[0].message.content };
  },
  async streamed_tools() {  // the package's own helper runs the functions and asks again
    const calls = [];
    const run = ({ city }) => (calls.push(["weather", { city }]), `${city} 21 °C`);
    const tool = { ...weather, function: { ...weather.function, parse: JSON.parse, function: run } };
    const runner = client.chat.completions.runTools({
      model, messages: [user("Compare Seoul and Busan.")], tools: [tool], stream: true,
    });
    const text = await runner.finalContent();
    return { calls, finish: runner.allChatCompletions()[0].choices[0].finish_reason, text };
  },
  async json_schema() {
    const response_format = { type: "json_schema", json_schema: { name: "product", schema, strict: true } };
    const answer = await client.chat.completions.parse({
      model, messages: [user("What is 6 times 7, as JSON?")], response_format,
    });
    return { value: JSON.parse(answer.choices[0].message.content) };
  },
  async image() {
    const content = [
      { type: "text", text: "What is in this picture?" },
      { type: "image_url", image_url: { url: process.env.IMAGE } },
    ];
    return { text: (await ask(content)).choices[0].message.content };
  },
  async reasoning() {
    const { message } = (await ask("What is 6 times 7?", { reasoning_effort: "low" })).choices[0];
    const { text, reasoning } = await read(await ask("What is 6 times 7?", { stream: true }));
    return { plain: [message.reasoning_content, message.content], streamed: [reasoning, text] };
  },
  async errors() {
    const stranger = new OpenAI({ apiKey: "wrong" });
    const hello = { model, messages: [user("Hello")] };
    return {
      model: await refused(() => client.chat.completions.create({ ...hello, model: "no-such-model" })),
      streamed: await refused(() => ask("Hello", { stream: true, temperature: 9 })),
      value: await refused(() => ask("Hello", { temperature: 9 })),
      choices: await refused(() => ask("Hello", { n: 2 })),
      key: await refused(() => stranger.chat.completions.create(hello)),
    };
  },
  async busy() {
    return { text: (await ask("Be busy once. Please.")).choices[0].message.content };
  },
  async down() {
    return { text: (await read(await ask("Be down once. Please.", { stream: true }))).text };
  },
  async gives_up() {
    return { error: await refused(() => ask("Be busy once. Now.", {}, { maxRetries: 0 })) };
  },
  async broken_off() {
    let text = "";
    try {
      for await (const chunk of await ask("Break off.", { stream: true })) text += chunk.choices[0].delta.content ?? "";
    } catch (error) {
      return { text, error: error.constructor.name };
    }
  },
  async conversation() {
    const headers = { "X-Conversation-Id": "from-openai" };
    const one = await ask("One.", {}, { headers }).withResponse();
    const first = one.data.choices[0].message.content;
    const said = [user("One."), { role: "assistant", content: first }];
    const two = await ask("Two.", { stream: true }, { headers }, said).withResponse();
    const { text: second } = await read(two.data);
    const again = (await ask("Two.", {}, { headers }, said)).choices[0].message.content;
    const sessions = [one, two].map(({ response }) => response.headers.get("x-session-id"));
    return { texts: [first, second, again], sessions };
  },
  async metadata() {
    const metadata = { session_id: "from-openai-metadata" }, sessions = new Set();
    for (const text of ["Hello", "Hello"]) {
      const { response } = await ask(text, { metadata }).withResponse();
      sessions.add(response.headers.get("x-session-id"));
    }
    return { sessions: sessions.size };
  },
  async repeated() {
    const once = { headers: { "Idempotency-Key": "openai-node-1" } };
    const streamed = { headers: { "Idempotency-Key": "openai-node-2" } };
    const [one, two] = [await ask("Only once.", {}, once), await ask("Only once.", {}, once)];
    const [three, four] = [
      await read(await ask("Only once.", { stream: true }, streamed)),
      await read(await ask("Only once.", { stream: true }, streamed)),
    ];
    return { same: [one.id === two.id, three.text === four.text], text: two.choices[0].message.content };
  },
  async abandoned() {
    for await (const chunk of await ask("Never end.", { stream: true })) {
      if (chunk.choices[0].delta.content) return { text: chunk.choices[0].delta.content };
    }
  },
};

const results = {};
for (const [name, run] of Object.entries(cases)) {
  results[name] = await run().catch((error) => ({ failed: String(error?.stack ?? error) }));
}
console.log(JSON.stringify(results));
process.exit();
