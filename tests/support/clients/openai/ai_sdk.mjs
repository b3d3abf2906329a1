// What a program does with the AI SDK (npm's ai and @ai-sdk/openai-compatible), as its users write it: one function for
// each case. Prints their results as JSON. OPENAI_BASE_URL and OPENAI_API_KEY are in the environment.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";

const settings = {
  name: "chatbot",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
};
const provider = createOpenAICompatible(settings);
const model = provider(process.env.MODEL);
const parameters = jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] });
const tokens = ({ inputTokens, outputTokens, totalTokens }) => [inputTokens, outputTokens, totalTokens];
const onError = () => {};  // else the SDK prints each error of a stream

function weather(calls) {
  const execute = async ({ city }) => (calls.push(["weather", { city }]), `${city} 21 °C`);
  return { weather: tool({ description: "The temperature in a city.", inputSchema: parameters, execute }) };
}

async function refused(request) {
  try {
    await request();
  } catch (error) {
    const { type, param, code } = error.data?.error ?? {};
    return [error.name, error.statusCode, type, param, code];
  }
}

async function failure(stream) {
  for await (const part of stream.fullStream) if (part.type === "error") throw part.error;
}

const cases = {
  async plain() {
    const options = { temperature: 0.5, maxOutputTokens: 50, seed: 7, stopSequences: ["\n"] };
    const { text, finishReason, usage, response } = await generateText({ model, prompt: "Good morning!", ...options });
    return { text, finish: finishReason, model: response.modelId, tokens: tokens(usage) };
  },
  async streamed() {
    const stream = streamText({ model, prompt: "Good morning!", onError });
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    return { text, finish: await stream.finishReason, tokens: tokens(await stream.usage) };
  },
  async length() {
    const { text, finishReason } = await generateText({ model, prompt: "Go on until the limit." });
    return { text, finish: finishReason };
  },
  async transcript() {
    const messages = [
      { role: "user", content: "My name is Mina." },
      { role: "assistant", content: "Hello Mina." },
      { role: "user", content: "Who am I?" },
    ];
    return { text: (await generateText({ model, instructions: "Be short.", messages })).text };
  },
  async tools() {
    const calls = [];
    const prompt = "How warm is it in Seoul?";
    const { text, steps } = await generateText({ model, prompt, tools: weather(calls), stopWhen: isStepCount(3) });
    return { calls, finish: steps[0].finishReason, text };
  },
  async streamed_tools() {
    const calls = [];
    const prompt = "Compare Seoul and Busan.";
    const stream = streamText({ model, prompt, tools: weather(calls), stopWhen: isStepCount(3), onError });
    const steps = await stream.steps;
    return { calls, finish: steps[0].finishReason, text: steps.at(-1).text };
  },
  async json_schema() {
    const schema = jsonSchema({ type: "object", properties: { result: { type: "integer" } }, required: ["result"] });
    const prompt = "What is 6 times 7, as JSON?";
    return { value: (await generateText({ model, prompt, output: Output.object({ schema }) })).output };
  },
  async image() {
    const content = [
      { type: "text", text: "What is in this picture?" },
      { type: "file", data: process.env.IMAGE, mediaType: "image/png" },
    ];
    return { text: (await generateText({ model, messages: [{ role: "user", content }] })).text };
  },
  async reasoning() {
    const prompt = "What is 6 times 7?";
    const one = await generateText({ model, prompt, providerOptions: { chatbot: { reasoningEffort: "low" } } });
    const two = streamText({ model, prompt, onError });
    return { plain: [one.reasoningText, one.text], streamed: [await two.reasoningText, await two.text] };
  },
  async errors() {
    const ask = (options) => generateText({ model, prompt: "Hello", maxRetries: 0, ...options });
    const streamed = () => failure(streamText({ model, prompt: "Hello", maxRetries: 0, temperature: 9, onError }));
    return {
      model: await refused(() => ask({ model: provider("no-such-model") })),
      streamed: await refused(streamed),
      value: await refused(() => ask({ temperature: 9 })),
      key: await refused(() => ask({ model: createOpenAICompatible({ ...settings, apiKey: "wrong" })(process.env.MODEL) })),
    };
  },
  async busy() {
    return { text: (await generateText({ model, prompt: "Be busy once. Please." })).text };
  },
  async down() {
    return { text: await streamText({ model, prompt: "Be down once. Please.", onError }).text };
  },
  async gives_up() {
    return { error: await refused(() => generateText({ model, prompt: "Be busy once. Now.", maxRetries: 0 })) };
  },
  async broken_off() {
    let text = "";
    for await (const part of streamText({ model, prompt: "Break off.", onError }).fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "error") return { text, error: "error part" };
    }
  },
  async conversation() {
    const headers = { "X-Conversation-Id": "from-ai-sdk" };
    const messages = [{ role: "user", content: "One." }];
    const one = await generateText({ model, messages, headers });
    messages.push(...one.response.messages, { role: "user", content: "Two." });
    const two = streamText({ model, messages, headers, onError });
    const texts = [one.text, await two.text, (await generateText({ model, messages, headers })).text];
    const sessions = [one.response, await two.response].map((response) => response.headers["x-session-id"]);
    return { texts, sessions };
  },
  async repeated() {
    const ask = () =>
      generateText({ model, prompt: "Only once.", headers: { "Idempotency-Key": "ai-sdk-1" } });
    const [one, two] = [await ask(), await ask()];
    return { same: [one.response.id === two.response.id], text: two.text };
  },
  async abandoned() {
    const abort = new AbortController();
    for await (const text of streamText({ model, prompt: "Never end.", abortSignal: abort.signal, onError }).textStream) {
      abort.abort();
      return { text };
    }
  },
};

const results = {};
for (const [name, run] of Object.entries(cases)) {
  results[name] = await run().catch((error) => ({ failed: String(error?.stack ?? error) }));
}
console.log(JSON.stringify(results));
process.exit();
