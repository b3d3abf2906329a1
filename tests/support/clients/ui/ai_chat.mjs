// What a page does with the AI SDK's chat (npm's ai), without React: one function for each case. Prints their results as
// JSON. SERVICE and KEY are in the environment.
import { AbstractChat, DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";

const service = process.env.SERVICE;
const headers = { Authorization: `Bearer ${process.env.KEY}` };
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The temperature in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

class State {
  status = "ready";
  error = undefined;
  messages;
  constructor(messages) { this.messages = messages; }
  pushMessage(message) { this.messages = [...this.messages, message]; }
  popMessage() { this.messages = this.messages.slice(0, -1); }
  replaceMessage(index, message) { this.messages = this.messages.with(index, structuredClone(message)); }
  snapshot(value) { return structuredClone(value); }
}

class Chat extends AbstractChat {
  constructor({ id, messages = [], body, ...rest }) {
    const transport = new DefaultChatTransport({ api: `${service}/api/ui/chat`, headers, body });
    const errors = [];
    super({ id, state: new State(messages), transport, onError: (error) => errors.push(error.message), ...rest });
    this.errors = errors;
  }
}

const said = ({ role, parts }) => [role, parts.filter((part) => part.type !== "step-start").map(shown)];
const shown = (part) => {
  if (part.type === "dynamic-tool") return [part.toolName, part.state, part.input, part.output ?? null];
  return part.type === "file" ? ["file", part.mediaType] : [part.type, part.text];
};
const texts = (chat) => chat.messages.map(said);
const get = async (path) => fetch(`${service}${path}`, { headers });
const read = async (id) => {
  const answer = await get(`/api/ui/chat/${id}`);
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
};
const when = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
};

const cases = {
  async plain() {
    const chat = new Chat({ id: "plain" });
    await chat.sendMessage({ text: "Good morning!" });
    await chat.sendMessage({ text: "And good night!" });
    const { metadata, id } = chat.messages.at(-1);
    return { texts: texts(chat), session: metadata.session_id, reply: id, errors: chat.errors };
  },
  async reasoning() {
    const chat = new Chat({ id: "reasoning" });
    await chat.sendMessage({ text: "What is 6 times 7?" });
    return { texts: texts(chat) };
  },
  async refusal() {
    const chat = new Chat({ id: "refusal" });
    await chat.sendMessage({ text: "Say something forbidden." });
    return { texts: texts(chat) };
  },
  async tools() {
    const calls = [];
    const chat = new Chat({
      id: "tools",
      body: { tools },
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall({ toolCall: { toolName, toolCallId, input } }) {
        calls.push([toolName, input]);
        chat.addToolOutput({ tool: toolName, toolCallId, output: `${input.city} 21 °C` });
      },
    });
    await chat.sendMessage({ text: "Compare Seoul and Busan." });
    await when(() => chat.status === "ready" && chat.lastMessage.parts.at(-1).type === "text");
    await chat.sendMessage({ text: "Thank you." });
    return { calls, texts: texts(chat), errors: chat.errors };
  },
  async regenerate() {
    const chat = new Chat({ id: "regenerate" });
    await chat.sendMessage({ text: "Good morning!" });
    const first = chat.lastMessage.id;
    await chat.regenerate();
    const second = chat.lastMessage;
    return { texts: texts(chat), other: first !== second.id, session: second.metadata.session_id };
  },
  async edit() {
    const chat = new Chat({ id: "edit" });
    await chat.sendMessage({ text: "My name is Mina." });
    await chat.sendMessage({ text: "My name is Jisu.", messageId: chat.messages[0].id });
    return { texts: texts(chat), session: chat.lastMessage.metadata.session_id };
  },
  async image() {
    const chat = new Chat({ id: "image" });
    const files = [{ type: "file", mediaType: "image/png", url: process.env.IMAGE }];
    await chat.sendMessage({ text: "What is in this picture?", files });
    const { messages } = await read("image");
    const again = new Chat({ id: "image", messages });
    await again.sendMessage({ text: "Thank you." });
    return { texts: texts(again), errors: again.errors, session: again.lastMessage.metadata.session_id };
  },
  async resume() {
    const left = new Chat({ id: "resume" });
    const sent = left.sendMessage({ text: "Go on without me." });
    await when(() => left.lastMessage?.role === "assistant" && left.lastMessage.parts.some((part) => part.text));
    await left.stop();
    await sent;
    const { messages } = await read("resume");
    const back = new Chat({ id: "resume", messages });
    await back.resumeStream();
    const after = await read("resume");
    return { texts: texts(back), recorded: after.messages.map(said), ids: after.messages.at(-1).id === back.lastMessage.id };
  },
  async resume_tools() {
    const chat = new Chat({ id: "resume-tools", body: { tools } });
    await chat.sendMessage({ text: "How warm is it in Seoul?" });
    const { toolCallId } = chat.lastMessage.parts.at(-1);
    chat.addToolOutput({ tool: "weather", toolCallId, output: "Go on without me." });
    const sent = chat.sendMessage();
    await when(() => chat.lastMessage.parts.at(-1).text);
    await chat.stop();
    await sent;
    const back = new Chat({ id: "resume-tools", messages: [...chat.messages] });
    await back.resumeStream();
    const { messages } = await read("resume-tools");
    return { texts: texts(back), recorded: messages.map(said), ids: [chat, back].map((one) => one.lastMessage.id === messages.at(-1).id) };
  },
  async nothing_to_resume() {
    const statuses = [];
    for (const id of ["plain", "no-such-chat"]) statuses.push((await get(`/api/ui/chat/${id}/stream`)).status);
    const chat = new Chat({ id: "plain" });
    await chat.resumeStream();
    return { statuses, errors: chat.errors, count: chat.messages.length, status: (await get("/api/ui/chat/no-such-chat")).status };
  },
  async cancelled() {
    const chat = new Chat({ id: "cancelled" });
    const sent = chat.sendMessage({ text: "Never end." });
    await when(() => chat.lastMessage?.parts.some((part) => part.type === "text" && part.text === "Once upon "));
    const { session_id } = chat.lastMessage.metadata;
    const stop = await fetch(`${service}/api/sessions/${session_id}/cancel`, { method: "POST", headers });
    await sent;
    return { texts: texts(chat), errors: chat.errors, status: chat.status, stop: stop.status };
  },
  async broken_off() {
    const chat = new Chat({ id: "broken" });
    await chat.sendMessage({ text: "Break off." });
    return { texts: texts(chat), errors: chat.errors.length, status: chat.status };
  },
  async refused() {
    const chat = new Chat({ id: "refused" });
    await chat.sendMessage({ text: " " });
    return { errors: chat.errors.map((text) => JSON.parse(text).errors), status: chat.status };
  },
};

const results = {};
for (const [name, run] of Object.entries(cases)) results[name] = await run();
console.log(JSON.stringify(results));
process.exit(0);
