// tokenizer.model: SentencePiece's ModelProto, a protocol buffer.
// Format: github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "text/hf_json.h"
#include "text/hf_vocabulary.h"
#include "text/unicode.h"

namespace quern {
namespace {

using nlohmann::json;

/// One field of a message.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;     // varint, or the bits of a fixed-width number
  std::string_view data;  // of a text or a message
};

/// The fields of a message one after the other. Messages hold no more than their bytes: no sizes are trusted.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  /// False at the end, and where the bytes are no message (`broken`).
  bool next(Field& field) {
    uint64_t tag = 0;
    if (rest_.empty() || !varint(tag)) return false;
    field = {static_cast<uint32_t>(tag >> 3), 0, {}};
    if (field.number == 0 || tag >> 32 != 0) return stop();
    switch (tag & 7) {
      case 0:
        return varint(field.value);
      case 1:
        return fixed(8, field.value);
      case 2: {
        uint64_t length = 0;
        if (!varint(length)) return false;
        if (length > rest_.size()) return stop();
        field.data = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return true;
      }
      case 5:
        return fixed(4, field.value);
      default:
        return stop();
    }
  }
  bool broken() const { return broken_; }

 private:
  bool stop() {
    broken_ = true;
    return false;
  }
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    return stop();
  }
  bool fixed(size_t bytes, uint64_t& value) {
    if (rest_.size() < bytes) return stop();
    for (size_t i = 0; i < bytes; ++i) value |= uint64_t{static_cast<uint8_t>(rest_[i])} << (8 * i);
    rest_.remove_prefix(bytes);
    return true;
  }

  std::string_view rest_;
  bool broken_ = false;
};

struct Piece {
  std::string text;
  float score = 0;
  uint64_t type = 1;
};

struct Model {
  std::vector<Piece> pieces;
  uint64_t kind = 1;                      // 1: unigram, 2: BPE
  int64_t unknown = 0, bos = 1, eos = 2;  // −1: none
  bool space_prefix = true, drops_spaces = true;
  bool replaces_characters = false;
};

tl::unexpected<Error> not_a_model() {
  return fail(ErrorCode::corrupt,
              "not a SentencePiece model (tokenizer.json would be read instead, if it were there)");
}

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = decode_utf8(text.substr(at));
    if (!step.valid) return false;
    at += step.length;
  }
  return true;
}

Result<Piece> read_piece(std::string_view bytes) {
  Piece piece;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1) piece.text = field.data;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) piece.type = field.value;
  }
  if (message.broken() || piece.type < 1 || piece.type > 6 || !is_utf8(piece.text)) return not_a_model();
  return piece;
}

Result<Model> read_model(std::string_view bytes) {
  Model model;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1) {
      if (model.pieces.size() >= kMaxVocabulary)
        return fail(ErrorCode::corrupt, "more than {} pieces", kMaxVocabulary);
      QUERN_TRY(Piece piece, read_piece(field.data));
      model.pieces.push_back(std::move(piece));
    }
    if (field.number != 2 && field.number != 3) continue;
    Message part(field.data);
    for (Field setting; part.next(setting);) {
      if (field.number == 2 && setting.number == 3) model.kind = setting.value;
      if (field.number == 2 && setting.number == 40) model.unknown = static_cast<int64_t>(setting.value);
      if (field.number == 2 && setting.number == 41) model.bos = static_cast<int64_t>(setting.value);
      if (field.number == 2 && setting.number == 42) model.eos = static_cast<int64_t>(setting.value);
      if (field.number == 3 && setting.number == 2) model.replaces_characters = !setting.data.empty();
      if (field.number == 3 && setting.number == 3) model.space_prefix = setting.value != 0;
      if (field.number == 3 && setting.number == 4) model.drops_spaces = setting.value != 0;
    }
    if (part.broken()) return not_a_model();
  }
  if (message.broken() || model.pieces.empty()) return not_a_model();
  return model;
}

/// added_tokens.json: text → id; tokenizer_config.json's added_tokens_decoder: id → {content, special}.
struct Added {
  int64_t id = -1;
  std::string text;
  bool special = false;
};

Result<std::vector<Added>> read_added(const json& added_tokens, const json& config) {
  std::vector<Added> added;
  const auto check = [](int64_t id) { return id >= 0 && id < static_cast<int64_t>(kMaxVocabulary); };
  for (const auto& [text, value] : added_tokens.items()) {
    const auto id = int_member(added_tokens, text.c_str());
    if (!id || !check(*id))
      return fail(ErrorCode::corrupt, "added_tokens.json: '{}' has no id between 0 and {}", shorten(text),
                  kMaxVocabulary - 1);
    added.push_back({*id, text, false});
  }
  const json* decoder = member(config, "added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_object()) return added;
  for (const auto& [key, token] : decoder->items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const std::string* text = string_member(token, "content");
    if (error != std::errc() || end != key.data() + key.size() || !check(id) || text == nullptr)
      return fail(ErrorCode::corrupt,
                  "tokenizer_config.json: added_tokens_decoder: '{}' is no id with a content", shorten(key));
    added.push_back({id, *text, bool_member(token, "special").value_or(false)});
  }
  return added;
}

Result<HfTokenizer> build(const Model& model, const std::vector<Added>& added, int64_t vocab_size,
                          Warnings& warnings) {
  HfTokenizer out;
  const size_t tokens = model.pieces.size() + added.size();
  size_t size = model.pieces.size();
  for (const Added& token : added) size = std::max(size, static_cast<size_t>(token.id) + 1);
  QUERN_TRY_VOID(out.vocabulary.resize(size, tokens, "added_tokens"));
  if (vocab_size > static_cast<int64_t>(size))
    QUERN_TRY_VOID(out.vocabulary.resize(static_cast<size_t>(vocab_size), tokens, "config.json: vocab_size"));
  std::vector<double> scores(out.vocabulary.size(), -10000.0);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    QUERN_TRY_VOID(out.vocabulary.set(static_cast<int64_t>(id), piece.text,
                                      static_cast<TokenType>(piece.type), "pieces"));
    if (std::isnan(piece.score)) return not_a_model();
    scores[id] = piece.score;
  }
  for (const Added& token : added) {
    const bool special = token.special || looks_special(token.text);
    const bool is_piece = static_cast<size_t>(token.id) < model.pieces.size();
    if (is_piece && out.vocabulary.text(token.id) == token.text && !special) continue;
    const bool unknown = is_piece && out.vocabulary.type(token.id) == TokenType::unknown;
    if (is_piece && out.vocabulary.type(token.id) == TokenType::unused) out.vocabulary.forget(token.id);
    QUERN_TRY_VOID(out.vocabulary.set(token.id, token.text,
                                      unknown   ? TokenType::unknown
                                      : special ? TokenType::control
                                                : TokenType::user_defined,
                                      "added_tokens"));
    if (!is_piece) scores[token.id] = -1000.0;
  }
  out.vocabulary.spell_user_defined();
  const auto is_control = [&](int64_t id) {
    return id >= 0 && id < static_cast<int64_t>(model.pieces.size()) &&
           out.vocabulary.type(id) == TokenType::control;
  };
  if (is_control(model.bos)) out.bos = model.bos;
  if (is_control(model.eos)) out.eos = model.eos;
  if (model.unknown >= 0 && model.unknown < static_cast<int64_t>(model.pieces.size()))
    out.unknown = out.vocabulary.text(model.unknown);
  if (model.replaces_characters)
    warnings.push_back(
        "normalizer_spec.precompiled_charsmap: replacing of characters before tokenizing is not done");
  if (model.drops_spaces)
    warnings.push_back(
        "normalizer_spec.remove_extra_whitespaces: is not done: several spaces stay as they are");
  out.metadata.add("tokenizer.ggml.model", std::string("llama"));
  out.metadata.add("tokenizer.ggml.pre", std::string("default"));
  out.metadata.add("tokenizer.ggml.scores", Metadata::Array{std::move(scores)});
  return out;
}

}  // namespace

Result<HfTokenizer> read_sentencepiece_model(std::string_view bytes, const std::string& name,
                                             const json& added_tokens, const json& config, int64_t vocab_size,
                                             Warnings& warnings) {
  const auto read = [&]() -> Result<HfTokenizer> {
    QUERN_TRY(const Model model, read_model(bytes));
    if (model.kind != 2)
      return fail(ErrorCode::unsupported, "trainer_spec.model_type: {} is not supported, only BPE is",
                  model.kind == 1 ? "unigram" : fmt::format("{}", model.kind));
    QUERN_TRY(const std::vector<Added> added, read_added(added_tokens, config));
    QUERN_TRY(HfTokenizer out, build(model, added, vocab_size, warnings));
    const auto prefix = bool_member(config, "add_prefix_space");
    out.metadata.add("tokenizer.ggml.add_space_prefix", prefix.value_or(model.space_prefix));
    return out;
  };
  auto out = read();
  if (!out) return fail(out.error().code, "{}: {}", name, out.error().message);
  return out;
}

}  // namespace quern
