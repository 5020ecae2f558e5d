// What the templates are asked to render.

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather of a city.",
      parameters: {
        type: "object",
        properties: {
          city: { type: "string", description: "The city, e.g. \"Köln\"" },
          days: { type: "integer", description: "How many days ahead", default: 1 },
          unit: { type: "string", enum: ["celsius", "fahrenheit"], description: "Unit" },
        },
        required: ["city"],
      },
    },
  },
  {
    type: "function",
    function: {
      name: "add",
      description: "Add numbers",
      parameters: { type: "object", properties: { a: { type: "number", description: "first" }, b: { type: "number", description: "second" } }, required: ["a", "b"] },
    },
  },
];

const system = { role: "system", content: "You are terse." };
const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
const call = (content, ...functions) => ({
  role: "assistant",
  ...(content === undefined ? {} : { content }),
  tool_calls: functions.map(([name, args], i) => ({ id: `call0000${i}`, type: "function", function: { name, arguments: args } })),
});
const result = (content, id = "call00000") => ({ role: "tool", tool_call_id: id, name: "get_weather", content });

const paris = ["get_weather", { city: "Paris", days: 2 }];
const conversations = {
  user: [user("Hello!")],
  "system, user": [system, user("Hello!")],
  "two turns": [user("Hi"), assistant("Hello."), user("And again?")],
  "system, three turns": [system, user("1"), assistant("one"), user("2"), assistant("two"), user("3")],
  "ends with assistant": [user("Hi"), assistant("Hello.")],
  "system, ends with assistant": [system, user("Hi"), assistant("Hello.")],
  unicode: [system, user("Grüße, 世界! 😀 — “quoted” ﷽ \u2028"), assistant("é\u0301 ✓"), user("ñ")],
  quotes: [user('He said "hi" and \'bye\' \\ <b>&amp;</b> {{ x }} {% if %} `code`')],
  newlines: [system, user("line one\nline two\n\n\ttabbed\r\nend"), assistant("```c\nint x;\n```"), user("ok\n")],
  "spaces around": [user("  padded  "), assistant("  answer  "), user("\n\nnext\n\n")],
  empty: [user("")],
  "empty system": [{ role: "system", content: "" }, user("x")],
  "empty assistant": [user("x"), assistant(""), user("y")],
  thinking: [user("2+2?"), assistant("<think>\nadd them\n</think>\n\n4"), user("3+3?")],
  "thinking last": [user("2+2?"), assistant("<think>\nadd them\n</think>\n\n4")],
  reasoning: [user("2+2?"), { role: "assistant", content: "4", reasoning_content: "add" }, user("3+3?")],
  "think switch": [{ role: "system", content: "Be brief. /no_think" }, user("Hello")],
  "two systems": [system, user("a"), assistant("b"), { role: "system", content: "more" }, user("c")],
  "two users": [user("a"), user("b")],
  "starts with assistant": [assistant("a"), user("b")],
  "unknown role": [user("a"), { role: "robot", content: "b" }],
  developer: [{ role: "developer", content: "Follow me." }, user("a")],
  "tool call": [user("Weather?"), call(null, paris), result('{"temp": 20.5, "sky": "clear"}'), user("Thanks")],
  "tool call, empty content": [user("Weather?"), call("", paris), result("sunny"), assistant("It is sunny."), user("Thanks")],
  "tool call, no content": [user("Weather?"), call(undefined, paris), result("sunny")],
  "tool call with text": [system, user("Weather?"), call("Let me look.", paris), result("sunny"), assistant("Sunny.")],
  "two calls": [user("Both?"), call("", paris, ["add", { a: 1, b: -2.5, note: "ü\n\"q\"", list: [1, [2, {}], {}], flag: true, nothing: null }]), result("a"), result("b", "call00001")],
  "call with text arguments": [user("Weather?"), call("", ["get_weather", '{"city": "Paris"}']), result("sunny")],
  "two results later": [user("q"), call("", paris), result("x"), assistant("done"), user("more"), call("", paris), result("y"), user("end")],
  parts: [user([{ type: "text", text: "first" }, { type: "text", text: "second" }])],
  "picture parts": [user([{ type: "image", image: "x.png" }, { type: "text", text: "What is it?" }])],
  "null content": [user(null)],
  "no content": [{ role: "user" }],
  "number content": [user(5)],
  none: [],
};

const settings = {
  prompt: { add_generation_prompt: true },
  "no prompt": { add_generation_prompt: false },
  "prompt left out": {},
  "no tokens": { add_generation_prompt: true, bos_token: "", eos_token: "" },
  tools: { add_generation_prompt: true, tools },
  "tools, no prompt": { add_generation_prompt: false, tools },
  "one tool": { add_generation_prompt: true, tools: [tools[1]] },
  "no tools": { add_generation_prompt: true, tools: [] },
  "null tools": { add_generation_prompt: true, tools: null },
  "thinking on": { add_generation_prompt: true, enable_thinking: true, thinking: true },
  "thinking off": { add_generation_prompt: true, enable_thinking: false, thinking: false },
  date: { add_generation_prompt: true, date_string: "1 Jan 2030" },
  "tools in system": { add_generation_prompt: true, tools, tools_in_user_message: false },
  "builtin tools": { add_generation_prompt: true, builtin_tools: ["brave_search", "code_interpreter", "get_weather"] },
  documents: { add_generation_prompt: true, documents: [{ doc_id: 1, title: "T", text: "A fact." }], controls: { citations: true, length: "short" } },
  effort: { add_generation_prompt: true, reasoning_effort: "high", custom_tools: tools },
};

/// Every pair of a conversation and settings, with a name.
export function* cases() {
  for (const [name, messages] of Object.entries(conversations)) {
    for (const [setting, extra] of Object.entries(settings)) {
      yield { name: `${name} / ${setting}`, variables: { messages, bos_token: "<s>", eos_token: "</s>", ...extra } };
    }
  }
}
