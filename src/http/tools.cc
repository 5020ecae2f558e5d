// /tokenize, /detokenize and /apply-template: the helpers of llama.cpp and vLLM, in one.
#include "engine/chat_prompt.h"
#include "http/handlers.h"
#include "http/prompt.h"
#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

constexpr FieldSpec kModel = {
    .name = "model", .kind = Kind::string, .about = "Which model; the default one when absent."};
constexpr std::string_view kTokensSchema = R"({"type": "array", "items": {"type": "integer"}})";

/// A token's bytes as text, or as numbers when they are only a part of a character.
Json piece_of(const Tokenizer& tokenizer, int32_t token) {
  std::string bytes = tokenizer.piece(token, true);
  Utf8Stream stream;
  if (stream.push(bytes) == bytes && !stream.pending()) return bytes;
  Json numbers = Json::array();
  for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  return numbers;
}

/// Appends a JSON array of what `text` makes of each token. As one Json value, the tokens of a long text
/// would take hundreds of times the text's memory.
template <class Text>
void append_list(std::string& out, std::span<const int32_t> tokens, const Text& text) {
  out += '[';
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    out += text(tokens[i]);
  }
  out += ']';
}

Parsed<std::vector<int32_t>> tokens_of(const ServedModel& model, const Body& body) {
  if (body.find("messages") != nullptr) {
    QUERN_TRY(const std::string text, conversation_text(model, body));
    QUERN_TRY_VOID(check_text(model, text));
    return encode_chat(model, text);
  }
  EncodeOptions options;
  options.parse_special = body.flag("parse_special", true);
  if (const auto content = body.string("content")) {  // llama.cpp's request
    QUERN_TRY_VOID(check_text(model, *content));
    options.add_special = body.flag("add_special", body.flag("add_special_tokens", false));
    return model.tokenizer->encode(*content, options);
  }
  if (const auto prompt = body.string("prompt")) {  // vLLM's
    QUERN_TRY_VOID(check_text(model, *prompt));
    options.add_special = body.flag("add_special_tokens", body.flag("add_special", true));
    return model.tokenizer->encode(*prompt, options);
  }
  return bad_field("content", "required, but missing (or give prompt, or messages)");
}

}  // namespace

std::span<const FieldSpec> tokenize_fields() {
  static const FieldSpec own[] = {
      kModel,
      {.name = "content",
       .kind = Kind::string,
       .about = "A text; special tokens are added only when asked for."},
      {.name = "prompt", .kind = Kind::string, .about = "A text; special tokens are added unless refused."},
      {.name = "messages", .kind = Kind::array, .about = "A conversation, through the chat template."},
      {.name = "add_special",
       .kind = Kind::boolean,
       .about = "Add BOS and the like. Default false with content."},
      {.name = "add_special_tokens", .kind = Kind::boolean, .about = "The same; default true with prompt."},
      {.name = "parse_special",
       .kind = Kind::boolean,
       .about = "Special tokens' text in the input counts as the token. Default true."},
      {.name = "with_pieces", .kind = Kind::boolean, .about = "Tokens as {id, piece}."},
      {.name = "return_token_strs",
       .kind = Kind::boolean,
       .about = "Add the vocabulary's spelling of each token."}};
  static const auto fields = join_fields({own, conversation_fields().subspan(1)});
  return fields;
}

std::span<const FieldSpec> detokenize_fields() {
  static const FieldSpec fields[] = {
      kModel,
      {.name = "tokens", .about = "Token ids.", .required = true, .schema = kTokensSchema},
      {.name = "skip_special_tokens",
       .kind = Kind::boolean,
       .about = "Leave control tokens out. Default false."}};
  return fields;
}

std::span<const FieldSpec> apply_template_fields() {
  static const FieldSpec own[] = {kModel};
  static const auto fields = join_fields({own, conversation_fields()});
  return fields;
}

Parsed<Reply> tokenize(App& app, const HttpRequest& http) {
  QUERN_TRY(const Body body, Body::parse(http.body, tokenize_fields()));
  QUERN_TRY(const auto model, find_model(app, body.string("model")));
  QUERN_TRY(const auto tokens, tokens_of(*model, body));
  const Tokenizer& tokenizer = *model->tokenizer;
  std::string reply = R"({"tokens":)";
  if (body.flag("with_pieces", false))
    append_list(reply, tokens, [&](int32_t t) {
      return dump({{"id", t}, {"piece", piece_of(tokenizer, t)}});
    });
  else
    append_list(reply, tokens, [](int32_t t) { return std::to_string(t); });
  reply += fmt::format(R"(,"count":{},"max_model_len":{})", tokens.size(), model->engine->context());
  if (body.flag("return_token_strs", false)) {
    reply += R"(,"token_strs":)";
    append_list(reply, tokens, [&](int32_t t) { return dump(tokenizer.raw(t)); });
  }
  reply += '}';
  return HttpResponse::json(std::move(reply));
}

Parsed<Reply> detokenize(App& app, const HttpRequest& http) {
  QUERN_TRY(const Body body, Body::parse(http.body, detokenize_fields()));
  QUERN_TRY(const auto model, find_model(app, body.string("model")));
  QUERN_TRY(const auto tokens, token_list(*body.find("tokens"), "tokens", model->tokenizer->size()));
  const std::string text = model->tokenizer->decode(tokens, !body.flag("skip_special_tokens", false));
  return HttpResponse::json(dump({{"content", text}, {"prompt", text}}));  // llama.cpp's name and vLLM's
}

Parsed<Reply> apply_template(App& app, const HttpRequest& http) {
  QUERN_TRY(const Body body, Body::parse(http.body, apply_template_fields()));
  QUERN_TRY(const auto model, find_model(app, body.string("model")));
  QUERN_TRY(const std::string text, conversation_text(*model, body));
  return HttpResponse::json(dump({{"prompt", text}}));
}

}  // namespace quern
