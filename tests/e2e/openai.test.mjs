// The openai client, as its users use it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { makeModel, Quern } from "./server.mjs";

let server, client, model;
before(async () => {
  model = makeModel("tiny", "tiny.gguf", "--distinct", "--type", "Q8_0", "--vocab-size", "1024");
  server = await Quern.start({ LLM_ALLOWED_MODELS: model });
  client = new OpenAI({ baseURL: server.url + "/v1", apiKey: "none", maxRetries: 0 });
});
after(() => server?.stop());

const messages = [{ role: "user", content: "Tell me about the weather in Zürich 🦙." }];
const greedy = { temperature: 0, max_tokens: 24 };

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
const textOf = (chunks) => chunks.map((c) => c.choices[0]?.delta?.content ?? c.choices[0]?.text ?? "").join("");

test("models are listed and found by id", async () => {
  const list = await client.models.list();
  assert.equal(list.data[0].id, model);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("a chat answer has the shape that the client declares", async () => {
  const answer = await client.chat.completions.create({ model, messages, ...greedy });
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(["length", "stop"].includes(answer.choices[0].finish_reason));
});

test("the stream is the answer", async () => {
  const whole = await client.chat.completions.create({ model, messages, ...greedy });
  const chunks = await collect(
    await client.chat.completions.create({ model, messages, ...greedy, stream: true, stream_options: { include_usage: true } }),
  );
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
  assert.deepEqual(chunks.filter((c) => c.choices[0]?.delta.role).length, 1);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.filter((c) => c.choices[0]?.finish_reason).length, 1);
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage.completion_tokens, whole.usage.completion_tokens);
});

test("completions take text and token ids alike", async () => {
  const { tokens } = (await server.post("/tokenize", { model, content: "Once upon a time", add_special: true })).json;
  const byText = await client.completions.create({ model, prompt: "Once upon a time", ...greedy });
  const byIds = await client.completions.create({ model, prompt: tokens, ...greedy });
  assert.equal(byIds.choices[0].text, byText.choices[0].text);
  assert.equal(byIds.usage.prompt_tokens, tokens.length);
  const several = await client.completions.create({ model, prompt: ["Once upon a time", "Twice"], ...greedy });
  assert.deepEqual(several.choices.map((c) => c.index), [0, 1]);
  assert.equal(several.choices[0].text, byText.choices[0].text);
});

test("stop strings end the answer and never appear", async () => {
  const whole = (await client.completions.create({ model, prompt: "stop here", ...greedy })).choices[0].text;
  for (const [from, length] of [[3, 2], [5, 4], [8, 1]]) {
    const characters = [...whole];
    const stop = characters.slice(from, from + length).join("");
    const expected = whole.slice(0, whole.indexOf(stop));
    const answer = await client.completions.create({ model, prompt: "stop here", ...greedy, stop });
    assert.equal(answer.choices[0].text, expected);
    assert.equal(answer.choices[0].finish_reason, "stop");
    const chunks = await collect(await client.completions.create({ model, prompt: "stop here", ...greedy, stop: ["\u0000never", stop], stream: true }));
    assert.equal(textOf(chunks), expected);
  }
});

test("log-probabilities: the chosen token is the likeliest when greedy", async () => {
  const answer = await client.chat.completions.create({ model, messages, ...greedy, logprobs: true, top_logprobs: 5 });
  const content = answer.choices[0].logprobs.content;
  assert.equal(content.length, answer.usage.completion_tokens);
  for (const entry of content) {
    assert.equal(entry.top_logprobs.length, 5);
    assert.equal(entry.top_logprobs[0].token, entry.token);
    assert.ok(entry.logprob <= 0);
    assert.ok(entry.top_logprobs.every((t, i, all) => i === 0 || all[i - 1].logprob >= t.logprob));
  }
  const bytes = content.flatMap((entry) => entry.bytes);
  assert.equal(Buffer.from(bytes).toString("utf8"), answer.choices[0].message.content);
});

test("echo gives the prompt's log-probabilities", async () => {
  const answer = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 0, echo: true, logprobs: 2, temperature: 0 });
  assert.equal(answer.choices[0].text, "Once upon a time");
  const { tokens, token_logprobs: values, text_offset: offsets } = answer.choices[0].logprobs;
  assert.equal(tokens.length, answer.usage.prompt_tokens);
  assert.equal(values[0], null);
  assert.ok(values.slice(1).every((v) => v < 0));
  assert.equal(offsets[0], 0);
});

test("n answers, one seed, the same every time", async () => {
  const ask = () => client.chat.completions.create({ model, messages, n: 3, seed: 7, temperature: 1.2, max_tokens: 16 });
  const [first, second] = [await ask(), await ask()];
  const texts = first.choices.map((c) => c.message.content);
  assert.deepEqual(first.choices.map((c) => c.index), [0, 1, 2]);
  assert.deepEqual(second.choices.map((c) => c.message.content), texts);
  assert.ok(new Set(texts).size > 1, "the answers of one request differ");
});

test("logit_bias bans and forces", async () => {
  const plain = await client.completions.create({ model, prompt: "bias", ...greedy, max_tokens: 1, logprobs: 1, extra: 1, return_tokens_as_token_ids: true });
  const id = plain.choices[0].logprobs.tokens[0].replace("token_id:", "");
  const banned = await client.completions.create({ model, prompt: "bias", ...greedy, max_tokens: 1, logprobs: 1, return_tokens_as_token_ids: true, logit_bias: { [id]: -100 } });
  assert.notEqual(banned.choices[0].logprobs.tokens[0], `token_id:${id}`);
  const forced = await client.completions.create({ model, prompt: "bias", ...greedy, max_tokens: 3, logprobs: 1, return_tokens_as_token_ids: true, logit_bias: { 70: 100 } });
  assert.deepEqual(forced.choices[0].logprobs.tokens, ["token_id:70", "token_id:70", "token_id:70"]);
});

test("errors are the client's own classes, with a message that names the field", async () => {
  const fails = async (body, type, pattern) =>
    assert.rejects(client.chat.completions.create({ model, messages, ...body }), (error) => {
      assert.ok(error instanceof type, `${error}`);
      assert.match(error.message, pattern);
      return true;
    });
  await fails({ model: "no/such-model" }, OpenAI.NotFoundError, /no\/such-model/);
  await fails({ temperature: "hot" }, OpenAI.BadRequestError, /temperature/);
  await fails({ top_logprobs: 21, logprobs: true }, OpenAI.BadRequestError, /top_logprobs/);
  await fails({ stream_options: { include_usage: true } }, OpenAI.BadRequestError, /stream_options/);
  await fails({ messages: [{ role: "user", content: "word ".repeat(5000) }] }, OpenAI.BadRequestError, /\d+ .*\d+/);
  await fails({ messages: [] }, OpenAI.BadRequestError, /messages/);
});

test("an answer's tool calls go back without content", async () => {
  const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Zürich"}' } };
  const conversation = [
    ...messages,
    { role: "assistant", content: null, tool_calls: [call] },
    { role: "tool", tool_call_id: "call_1", content: "rain" },
  ];
  const answer = await client.chat.completions.create({ model, messages: conversation, ...greedy });
  assert.ok(answer.usage.completion_tokens > 0);
});

test("an aborted stream gives its place and its blocks back", async () => {
  const free = await server.metric("quern_kv_blocks_free");
  const stream = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 1500, stream: true, ignore_eos: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content) break; // leaving the loop aborts
  }
  for (let i = 0; i < 100 && (await server.metric("quern_requests_running")) !== 0; i++) await new Promise((r) => setTimeout(r, 20));
  assert.equal(await server.metric("quern_requests_running"), 0);
  assert.equal(await server.metric("quern_kv_blocks_free"), free);
});
