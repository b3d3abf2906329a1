// Streams a response with npm's package openai until its service is killed, and resumes it at the address that it then
// reads from its standard input. Prints what it has, and all events as JSON.
import { createInterface } from "node:readline/promises";
import OpenAI from "openai";

const events = [];
try {
  for await (const event of await new OpenAI().responses.create({ model: process.env.MODEL, input: "Go.", stream: true })) {
    events.push(event);
    if (event.type === "response.output_text.delta") console.log(events[0].response.id, event.sequence_number);
  }
} catch (error) {
  console.log(error.constructor.name);
}
const lines = createInterface({ input: process.stdin });
const baseURL = await new Promise((resolve) => lines.once("line", resolve));
lines.close();
const client = new OpenAI({ baseURL });
const [id, after] = [events[0].response.id, events.at(-1).sequence_number];
for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: after })) events.push(event);
const late = [];
for await (const event of await client.responses.retrieve(id, { stream: true })) late.push(event);
console.log(JSON.stringify({ events, late }));
