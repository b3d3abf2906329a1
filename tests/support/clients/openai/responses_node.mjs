// What a program does with the responses and conversations of npm's package openai, as its users write it: one function
// for each case. Prints their results as JSON. OPENAI_BASE_URL and OPENAI_API_KEY are in the environment.
import { isDeepStrictEqual as isSame } from "node:util";
import OpenAI from "openai";

const client = new OpenAI();
const model = process.env.MODEL;
const weather = {
  type: "function", name: "weather", strict: null,
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const schema = { type: "object", properties: { result: { type: "integer" } }, required: ["result"] };
const ask = (input, fields = {}) => client.responses.create({ model, input, ...fields });
const collect = async (stream) => {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
};
const deltas = (events, type = "response.output_text.delta") =>
  events.filter((event) => event.type === type).map((event) => event.delta).join("");
const isGapless = (events) => events.every((event, index) => event.sequence_number === index);

async function refused(request) {
  try {
    await request();
  } catch (error) {
    return [error.constructor.name, error.status, error.type, error.param, error.code];
  }
}

const cases = {
  async plain() {
    const answer = await ask("Good morning!", {
      instructions: "Be short.", temperature: 0.5, top_p: 0.9, max_output_tokens: 50, truncation: "auto",
      metadata: { topic: "greeting" },
    });
    const { input_tokens, output_tokens, total_tokens } = answer.usage;
    const shown = [answer.object, answer.status, answer.temperature, answer.max_output_tokens, answer.metadata.topic];
    return { text: answer.output_text, shown, tokens: [input_tokens, output_tokens, total_tokens] };
  },
  async streamed() {
    const events = await collect(await ask("Good morning!", { stream: true }));
    const final = await client.responses.stream({ model, input: "Good morning!" }).finalResponse();
    return { text: deltas(events), gapless: isGapless(events), final: final.output_text };
  },
  async resumed() {
    const first = [];
    for await (const event of await ask("Go on without me.", { stream: true, background: true })) {
      first.push(event);
      if (event.type === "response.output_text.delta") break;
    }
    const [id, after] = [first[0].response.id, first.at(-1).sequence_number];
    const read = async (query) => collect(await client.responses.retrieve(id, { stream: true, ...query }));
    const [rest, late] = [await read({ starting_after: after }), await read({ starting_after: after })];
    const { output_text, ...end } = await client.responses.retrieve(id);
    return {
      text: deltas([...first, ...rest]),
      gapless: isGapless([...first, ...rest]),
      same: isSame(rest, late) && isSame([...first, ...rest], await read({})),
      end: isSame(rest.at(-1).response, end),
    };
  },
  async background() {
    const answer = await ask("Go on without me.", { background: true });
    await collect(await client.responses.retrieve(answer.id, { stream: true }));
    const waiting = ["queued", "in_progress"].includes(answer.status);
    return { waiting, text: (await client.responses.retrieve(answer.id)).output_text };
  },
  async cancelled() {
    const answer = await ask("Never end.", { background: true });
    const [first, second] = [await client.responses.cancel(answer.id), await client.responses.cancel(answer.id)];
    return { status: first.status, same: isSame({ ...first }, { ...second }) };
  },
  async previous() {
    const one = await ask("One.");
    const two = await ask("Two.", { previous_response_id: one.id });
    const other = await ask("Three.", { previous_response_id: one.id });
    const items = await collect(client.responses.inputItems.list(two.id));
    const tokens = await client.responses.inputTokens.count({ model, input: "Two.", previous_response_id: one.id });
    return {
      texts: [two.output_text, other.output_text],
      items: items.map((item) => item.content[0].text),
      counted: tokens.input_tokens > 0,
    };
  },
  async conversation() {
    const items = [{ role: "user", content: "I am Mina." }];
    const made = await client.conversations.create({ items, metadata: { topic: "names" } });
    const changed = await client.conversations.update(made.id, { metadata: { topic: "people" } });
    const said = await ask("Who am I?", { conversation: made.id });
    const note = [{ role: "user", content: "Note this." }];
    const added = await client.conversations.items.create(made.id, { items: note });
    const listed = await collect(client.conversations.items.list(made.id, { order: "asc", limit: 2 }));
    const one = await client.conversations.items.retrieve(added.data[0].id, { conversation_id: made.id });
    await client.conversations.items.delete(one.id, { conversation_id: made.id });
    const left = await collect(client.conversations.items.list(made.id, { order: "asc" }));
    const found = await client.conversations.retrieve(made.id);
    const deleted = await client.conversations.delete(made.id);
    const gone = await refused(() => client.responses.retrieve(said.id));
    return {
      topics: [made.metadata.topic, changed.metadata.topic, found.metadata.topic],
      texts: listed.map((item) => item.content[0].text),
      left: left.length,
      deleted: [deleted.deleted, gone[1]],
    };
  },
  async tools() {
    const first = await ask("How warm is it in Seoul?", { tools: [weather] });
    const call = first.output.find((item) => item.type === "function_call");
    const result = { type: "function_call_output", call_id: call.call_id, output: "Seoul 21 °C" };
    const last = await ask([result], { previous_response_id: first.id, tools: [weather] });
    const events = await collect(await ask("How warm is it in Seoul?", { tools: [weather], stream: true }));
    const done = events.filter((event) => event.type === "response.function_call_arguments.done");
    return {
      calls: [[call.name, JSON.parse(call.arguments)]],
      text: last.output_text,
      streamed: done.map((event) => JSON.parse(event.arguments)),
    };
  },
  async json_schema() {
    const format = { type: "json_schema", name: "product", schema, strict: true };
    return { value: JSON.parse((await ask("What is 6 times 7, as JSON?", { text: { format } })).output_text).result };
  },
  async image() {
    const content = [
      { type: "input_text", text: "What is in this picture?" },
      { type: "input_image", image_url: process.env.IMAGE, detail: "auto" },
    ];
    return { text: (await ask([{ role: "user", content }])).output_text };
  },
  async reasoning() {
    const [thought, said] = (await ask("What is 6 times 7?", { reasoning: { effort: "low" } })).output;
    const events = await collect(await ask("What is 6 times 7?", { stream: true }));
    const streamed = deltas(events, "response.reasoning_text.delta");
    return { plain: [thought.content[0].text, said.content[0].text], streamed };
  },
  async refusal() {
    return { plain: (await ask("Say something forbidden.")).output[0].content[0].refusal };
  },
  async length() {
    const answer = await ask("Go on until the limit.");
    return { text: answer.output_text, reason: answer.incomplete_details.reason };
  },
  async unstored() {
    const answer = await ask("Good morning!", { store: false });
    return { text: answer.output_text, gone: (await refused(() => client.responses.retrieve(answer.id)))[1] };
  },
  async deleted() {
    const answer = await ask("Good morning!");
    await client.responses.delete(answer.id);
    return { gone: (await refused(() => client.responses.retrieve(answer.id)))[1] };
  },
  async errors() {
    const stranger = new OpenAI({ apiKey: "wrong" });
    return {
      model: await refused(() => client.responses.create({ model: "no-such-model", input: "Hello" })),
      value: await refused(() => ask("Hello", { temperature: 9 })),
      tool: await refused(() => ask("Hello", { tools: [{ type: "web_search" }] })),
      key: await refused(() => stranger.responses.create({ model, input: "Hello" })),
    };
  },
};

const results = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    results[name] = await run();
  } catch (error) {
    results[name] = { failed: String(error.stack ?? error) };
  }
}
console.log(JSON.stringify(results));
