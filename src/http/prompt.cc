#include "http/prompt.h"

#include <algorithm>

#include "engine/chat_prompt.h"
#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

constexpr std::string_view kMessagesSchema =
    R"({"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}})";
constexpr std::string_view kToolsSchema = R"({"type": ["array", "null"], "items": {"type": "object"}})";

const std::vector<FieldSpec>& table() {
  static const std::vector<FieldSpec> fields = {
      {.name = "messages",
       .about = "The conversation so far, oldest first.",
       .required = true,
       .schema = kMessagesSchema},
      {.name = "tools",
       .about = "Functions, given to the chat template. Calls come back as text.",
       .schema = kToolsSchema},
      {.name = "add_generation_prompt",
       .kind = Kind::boolean,
       .about = "End with what opens the assistant's turn. Default true."},
      {.name = "chat_template_kwargs",
       .kind = Kind::object,
       .about = "More variables for the chat template."},
  };
  return fields;
}

/// Those with tool calls need none.
bool lacks_content(const Json& message) {
  const auto content = message.find("content");
  return content == message.end() || content->is_null();
}

/// The parts of a content array as one text.
Parsed<std::string> join_parts(const Json& parts, const std::string& field) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string name = fmt::format("{}[{}]", field, i);
    if (part.is_string()) {
      if (i > 0) text += '\n';
      text += part.get<std::string>();
      continue;
    }
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string())
      return bad_field(name, fmt::format("must be an object with a type, got {}", shown(part)));
    if (*type != "text" && *type != "input_text" && *type != "refusal")
      return bad_field(name,
                       fmt::format("type {} is not supported: this model takes text only", shown(*type)));
    const auto value = part.find(*type == "refusal" ? "refusal" : "text");
    if (value == part.end() || !value->is_string()) return bad_field(name + ".text", "must be a string");
    if (i > 0) text += '\n';
    text += value->get<std::string>();
  }
  return text;
}

Parsed<void> check_objects(const Json& list, const std::string& field) {
  if (!list.is_array()) return bad_field(field, fmt::format("must be an array, got {}", shown(list)));
  for (size_t i = 0; i < list.size(); ++i)
    if (!list[i].is_object())
      return bad_field(fmt::format("{}[{}]", field, i),
                       fmt::format("must be an object, got {}", shown(list[i])));
  return {};
}

/// OpenAI gives a call's arguments as JSON in a string; templates want the object. `spent` as in parse_json.
void open_arguments(Json& calls, size_t& spent) {
  for (Json& call : calls) {
    const auto function = call.find("function");
    if (function == call.end() || !function->is_object()) continue;
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || !arguments->is_string()) continue;
    auto parsed = parse_json(arguments->get_ref<const std::string&>(), &spent);
    if (parsed && parsed->is_object()) *arguments = std::move(*parsed);
  }
}

Parsed<Json> read_message(const Json& given, const std::string& field, size_t& spent) {
  if (!given.is_object()) return bad_field(field, fmt::format("must be an object, got {}", shown(given)));
  Json message = given;
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string() || role->get_ref<const std::string&>().empty())
    return bad_field(field + ".role", role == message.end() ? "required, but missing" : "must be a string");
  const auto content = message.find("content");
  const bool calls = message.contains("tool_calls") || message.contains("function_call");
  if (lacks_content(message)) {
    if (!calls) return bad_field(field + ".content", "required, but missing");
  } else if (content->is_array()) {
    QUERN_TRY(*content, join_parts(*content, field + ".content"));
  } else if (!content->is_string()) {
    return bad_field(field + ".content",
                     fmt::format("must be a string or an array of text parts, got {}", shown(*content)));
  }
  const auto made = message.find("tool_calls");
  if (made != message.end() && !made->is_null()) {
    QUERN_TRY_VOID(check_objects(*made, field + ".tool_calls"));
    open_arguments(*made, spent);
  }
  return message;
}

Parsed<Json> read_messages(const Body& body) {
  const Json& given = *body.find("messages");
  if (!given.is_array() || given.empty())
    return bad_field("messages",
                     fmt::format("must be an array of at least one message, got {}", shown(given)));
  Json messages = Json::array();
  size_t spent = 0;
  for (size_t i = 0; i < given.size(); ++i) {
    QUERN_TRY(Json message, read_message(given[i], fmt::format("messages[{}]", i), spent));
    messages.push_back(std::move(message));
  }
  return messages;
}

/// `tools`, or the older `functions` in their form; none when the request says that none may be called.
Parsed<Json> read_tools(const Body& body) {
  Json tools = Json::array();
  if (const Json* choice = body.find("tool_choice"); choice != nullptr && *choice == "none") return tools;
  if (const Json* given = body.find("tools")) {
    QUERN_TRY_VOID(check_objects(*given, "tools"));
    tools = *given;
  }
  if (const Json* functions = body.find("functions")) {
    QUERN_TRY_VOID(check_objects(*functions, "functions"));
    for (const Json& function : *functions) tools.push_back({{"type", "function"}, {"function", function}});
  }
  return tools;
}

}  // namespace

std::span<const FieldSpec> conversation_fields() { return table(); }

Parsed<std::string> conversation_text(const ServedModel& model, const Body& body) {
  Json variables = Json::object();
  if (const Json* more = body.find("chat_template_kwargs")) variables = *more;
  QUERN_TRY(variables["messages"], read_messages(body));
  QUERN_TRY(Json tools, read_tools(body));
  if (!tools.empty()) variables["tools"] = std::move(tools);
  variables["add_generation_prompt"] = body.flag("add_generation_prompt", true);
  Json& messages = variables["messages"];
  if (std::ranges::any_of(messages, lacks_content)) {
    // Some templates ask whether there is content; those that append it whatever it is want a text.
    if (auto text = render_chat(model, variables)) return std::move(*text);
    for (Json& message : messages)
      if (lacks_content(message)) message["content"] = "";
  }
  auto text = render_chat(model, std::move(variables));
  if (text) return std::move(*text);
  ApiError error = to_api_error(text.error());
  if (error.kind == ApiErrorKind::bad_request) error.param = "messages";
  return fail(std::move(error));
}

Parsed<std::vector<int32_t>> conversation_tokens(const ServedModel& model, const Body& body) {
  QUERN_TRY(const std::string text, conversation_text(model, body));
  QUERN_TRY_VOID(check_text(model, text));
  auto tokens = encode_chat(model, text);
  QUERN_TRY_VOID(check_length(model, tokens.size()));
  return tokens;
}

}  // namespace quern
