// tokenizer.json → vocabulary and the keys for how text is cut.
#include <algorithm>
#include <limits>

#include "text/hf_json.h"
#include "text/hf_rules.h"
#include "text/hf_vocabulary.h"
#include "text/tokenizer_base.h"
#include "text/unicode.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr int32_t kNotMerged = std::numeric_limits<int32_t>::max();

struct Model {
  bool byte_fallback = false, ignore_merges = false;
  std::string unknown;
};

Result<Model> read_model(const TokenizerJson& file) {
  const json* model = member(file.rest, "model");
  if (model == nullptr || !model->is_object()) return fail(ErrorCode::corrupt, "model: missing");
  const std::string* type = string_member(*model, "type");
  if (type != nullptr && *type != "BPE")
    return fail(ErrorCode::unsupported, "model.type: '{}' is not supported, only BPE is", shorten(*type));
  if (type == nullptr && file.merges.empty())
    return fail(ErrorCode::unsupported, "model.type: missing, and no merges as BPE has them");
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string* text = string_member(*model, field);
    if (text != nullptr && !text->empty())
      return fail(ErrorCode::unsupported, "model.{}: '{}' is not supported", field, shorten(*text));
  }
  if (file.vocab.empty()) return fail(ErrorCode::corrupt, "model.vocab: missing or empty");
  Model out;
  out.byte_fallback = bool_member(*model, "byte_fallback").value_or(false);
  out.ignore_merges = bool_member(*model, "ignore_merges").value_or(false);
  if (const std::string* unknown = string_member(*model, "unk_token")) out.unknown = *unknown;
  return out;
}

const json& array_member(const json& object, const char* key) {
  static const json none = json::array();
  const json* found = member(object, key);
  return found != nullptr && found->is_array() ? *found : none;
}

Result<> read_vocabulary(TokenizerJson& file, const Model& model, int64_t vocab_size,
                         HfVocabulary& vocabulary) {
  const json& added = array_member(file.rest, "added_tokens");
  int64_t size = 0;
  for (const auto& [text, id] : file.vocab) size = std::max(size, id + 1);
  for (const json& token : added) {
    const auto id = int_member(token, "id");
    if (!id || *id < 0 || *id >= static_cast<int64_t>(kMaxVocabulary) ||
        string_member(token, "content") == nullptr)
      return fail(ErrorCode::corrupt,
                  "added_tokens: {}: not a token with a content and an id between 0 and {}",
                  shorten(token.dump(-1, ' ', true, json::error_handler_t::replace)), kMaxVocabulary - 1);
    size = std::max(size, *id + 1);
  }
  const size_t tokens = file.vocab.size() + added.size();
  QUERN_TRY_VOID(vocabulary.resize(static_cast<size_t>(size), tokens, "model.vocab"));
  if (vocab_size > size)
    QUERN_TRY_VOID(vocabulary.resize(static_cast<size_t>(vocab_size), tokens, "config.json: vocab_size"));
  for (auto& [text, id] : file.vocab) {
    const bool byte = model.byte_fallback && parse_byte_token(text) >= 0;
    const TokenType type = byte ? TokenType::byte : TokenType::normal;
    QUERN_TRY_VOID(vocabulary.set(id, std::move(text), type, "model.vocab"));
  }
  file.vocab = {};
  return {};
}

/// Types of the added tokens, as llama.cpp's conversion decides them, and what their flags ask for.
Result<> read_added(const json& file, const Model& model, HfTokenizer& out, Warnings& warnings) {
  std::vector<int64_t> left, right;
  for (const json& token : array_member(file, "added_tokens")) {
    const int64_t id = *int_member(token, "id");
    std::string text = *string_member(token, "content");
    const auto flag = [&](const char* name) { return bool_member(token, name).value_or(false); };
    TokenType type = flag("special") || looks_special(text) ? TokenType::control : TokenType::user_defined;
    if (!text.empty() && text == model.unknown) type = TokenType::unknown;
    if (flag("single_word")) {
      warnings.push_back(fmt::format(
          "added_tokens: '{}' is a token also inside of words: single_word is not done", shorten(text)));
    }
    if (flag("lstrip")) left.push_back(id);
    if (flag("rstrip")) right.push_back(id);
    QUERN_TRY_VOID(out.vocabulary.set(id, std::move(text), type, "added_tokens"));
  }
  if (!left.empty()) out.metadata.add("tokenizer.quern.lstrip", Metadata::Array{std::move(left)});
  if (!right.empty()) out.metadata.add("tokenizer.quern.rstrip", Metadata::Array{std::move(right)});
  return {};
}

/// For each token the rank of the first merge that makes it.
struct Ranks {
  std::vector<int32_t> of;
  size_t made = 0;       // tokens that merges make
  size_t plain = 0;      // merges of tokens that text can spell
  bool together = true;  // all merges that make one token stand together
};

bool spelled(const HfVocabulary& vocabulary, int64_t id) { return vocabulary.type(id) == TokenType::normal; }

Result<Ranks> rank_merges(const std::vector<std::string>& merges, const HfVocabulary& vocabulary) {
  Ranks ranks;
  ranks.of.assign(vocabulary.size(), kNotMerged);
  std::string joined;
  int64_t before = -1;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const size_t space = merge.find(' ');
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left).append(right);
    const int64_t ids[] = {vocabulary.find(left), vocabulary.find(right), vocabulary.find(joined)};
    for (const auto& [id, text] :
         {std::pair(ids[0], left), {ids[1], right}, {ids[2], std::string_view(joined)}}) {
      if (id < 0)
        return fail(ErrorCode::corrupt, "model.merges[{}]: '{}' is not in the vocabulary", i, shorten(text));
    }
    int32_t& rank = ranks.of[ids[2]];
    if (rank == kNotMerged) {
      rank = static_cast<int32_t>(ranks.made++);
    } else if (before != ids[2]) {
      ranks.together = false;
    }
    before = ids[2];
    if (std::all_of(std::begin(ids), std::end(ids), [&](int64_t id) { return spelled(vocabulary, id); }))
      ++ranks.plain;
  }
  return ranks;
}

/// Whether any two tokens join that make a token together, as SentencePiece has it: then scores say all that
/// the merges say.
bool joins_like_sentencepiece(const HfVocabulary& vocabulary, const Ranks& ranks) {
  if (!ranks.together) return false;
  // Every token is cut at each of its characters and both parts are looked up: quadratic in its length.
  constexpr size_t kMostBytes = size_t{1} << 30;
  size_t pairs = 0, bytes = 0;
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    if (!spelled(vocabulary, static_cast<int64_t>(id))) continue;
    const std::string_view text = vocabulary.text(static_cast<int64_t>(id));
    bytes += text.size() * text.size();
    if (bytes > kMostBytes) return false;  // then the merges stand beside the scores
    for (size_t at = 0; at < text.size();) {
      at += decode_utf8(text.substr(at)).length;
      if (at >= text.size()) break;
      const auto known = [&](std::string_view part) {
        const int64_t found = vocabulary.find(part);
        return found >= 0 ? spelled(vocabulary, found) : decode_utf8(part).length == part.size();
      };
      if (known(text.substr(0, at)) && known(text.substr(at))) ++pairs;
    }
  }
  return pairs == ranks.plain;
}

/// SentencePiece's scores fall with the order in which training made the pieces; single characters follow.
std::vector<double> scores_of(const HfVocabulary& vocabulary, const Ranks& ranks) {
  std::vector<double> scores(vocabulary.size(), 0.0);
  size_t next = ranks.made;
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    switch (vocabulary.type(static_cast<int64_t>(id))) {
      case TokenType::normal:
        scores[id] =
            -static_cast<double>(ranks.of[id] != kNotMerged ? static_cast<size_t>(ranks.of[id]) : next++);
        break;
      case TokenType::unused:
        scores[id] = -10000.0;
        break;
      case TokenType::user_defined:
        scores[id] = -1000.0;
        break;
      default:
        break;
    }
  }
  return scores;
}

void add_patterns(const HfRules& rules, bool ignore_merges, Metadata& metadata) {
  metadata.add("tokenizer.quern.patterns", Metadata::Array{rules.patterns});
  metadata.add("tokenizer.quern.ignore_merges", ignore_merges);
}

void add_rules(const HfRules& rules, Metadata& metadata) {
  using Prefix = HfRules::Prefix;
  if (!rules.normalization.empty()) metadata.add("tokenizer.quern.normalization", rules.normalization);
  if (rules.prefix == Prefix::each_once) metadata.add("tokenizer.quern.space_prefix", std::string("each"));
  if (rules.prefix == Prefix::first) metadata.add("tokenizer.quern.space_prefix", std::string("first"));
}

/// Bytes in GPT-2's alphabet: model "gpt2".
Result<> add_byte_level(const HfRules& rules, const Model& model, std::vector<std::string> merges,
                        HfTokenizer& out, Warnings& warnings) {
  const PreTokenizerName known = name_pre_tokenizer(rules.patterns, model.ignore_merges);
  if (known.name.empty()) {
    warnings.push_back(
        "pre_tokenizer: llama.cpp has no name for it: what is written of this tokenizer into a GGUF file "
        "tokenizes right here, but not there");
  }
  QUERN_TRY_VOID(rank_merges(merges, out.vocabulary));
  Metadata& metadata = out.metadata;
  metadata.add("tokenizer.ggml.model", std::string("gpt2"));
  metadata.add("tokenizer.ggml.pre", std::string(known.name.empty() ? "default" : known.name));
  metadata.add("tokenizer.ggml.merges", Metadata::Array{std::move(merges)});
  if (!known.exact) add_patterns(rules, model.ignore_merges, metadata);
  return {};
}

/// Characters with byte fallback, as converted from SentencePiece: model "llama".
Result<> add_byte_fallback(const HfRules& rules, const Model& model, std::vector<std::string> merges,
                           HfTokenizer& out, Warnings& warnings) {
  if (!rules.escaped)
    return fail(ErrorCode::unsupported,
                "pre_tokenizer: byte fallback without '▁' for spaces is not supported");
  QUERN_TRY(const Ranks ranks, rank_merges(merges, out.vocabulary));
  const bool same =
      rules.patterns.empty() && !model.ignore_merges && joins_like_sentencepiece(out.vocabulary, ranks);
  if (!same) {
    warnings.push_back(
        "model.merges: not what SentencePiece's scores can say: what is written of this tokenizer into a "
        "GGUF "
        "file tokenizes right here, but llama.cpp cuts some texts otherwise");
  }
  Metadata& metadata = out.metadata;
  metadata.add("tokenizer.ggml.model", std::string("llama"));
  metadata.add("tokenizer.ggml.pre", std::string("default"));
  metadata.add("tokenizer.ggml.scores", Metadata::Array{scores_of(out.vocabulary, ranks)});
  metadata.add("tokenizer.ggml.add_space_prefix", rules.prefix != HfRules::Prefix::none);
  out.vocabulary.spell_user_defined();
  if (!same) {
    metadata.add("tokenizer.ggml.merges", Metadata::Array{std::move(merges)});
    add_patterns(rules, model.ignore_merges, metadata);
  }
  return {};
}

const std::string* special_token(const json& part) {
  const json* special = member(part, "SpecialToken");
  return special == nullptr ? nullptr : string_member(*special, "id");
}

/// What stands around a text: TemplateProcessing, alone or in a Sequence.
void read_post_processor(const json& file, HfTokenizer& out, Warnings& warnings) {
  out.template_known = true;
  const json* post = member(file, "post_processor");
  if (post == nullptr) return;
  const json& several = array_member(*post, "processors");
  const json single = json::array({*post});
  for (const json& step : several.empty() ? single : several) {
    const std::string* type = string_member(step, "type");
    if (type != nullptr && *type == "ByteLevel") continue;  // offsets alone
    if (type == nullptr || *type != "TemplateProcessing") {
      warnings.push_back(
          fmt::format("post_processor.type: '{}' is not done", type == nullptr ? "" : shorten(*type)));
      continue;
    }
    const json& parts = array_member(step, "single");
    size_t specials = 0;
    for (const json& part : parts) specials += special_token(part) != nullptr;
    if (parts.size() < 2 || specials == 0) continue;
    if (const std::string* first = special_token(parts.front())) out.first = *first, --specials;
    if (const std::string* last = special_token(parts.back())) out.last = *last, --specials;
    if (specials > 0)
      warnings.push_back(
          "post_processor.single: more than one special token before or after the text: one is added");
  }
}

}  // namespace

Result<HfTokenizer> read_tokenizer_json(std::string_view text, const std::string& name, int64_t vocab_size,
                                        Warnings& warnings) {
  QUERN_TRY(TokenizerJson file, parse_tokenizer_json(text, name));
  const auto read = [&]() -> Result<HfTokenizer> {
    HfTokenizer out;
    QUERN_TRY(const Model model, read_model(file));
    QUERN_TRY(const HfRules rules, read_hf_rules(file.rest));
    const json* decoder = member(file.rest, "decoder");
    const std::string* decoder_type = decoder == nullptr ? nullptr : string_member(*decoder, "type");
    const bool byte_level = rules.byte_level || (decoder_type != nullptr && *decoder_type == "ByteLevel");
    if (!byte_level && !model.byte_fallback)
      return fail(
          ErrorCode::unsupported,
          "model.byte_fallback: BPE that has neither bytes (ByteLevel) nor byte fallback is not supported");
    QUERN_TRY_VOID(read_vocabulary(file, model, vocab_size, out.vocabulary));
    QUERN_TRY_VOID(read_added(file.rest, model, out, warnings));
    out.unknown = model.unknown;
    read_post_processor(file.rest, out, warnings);
    QUERN_TRY_VOID(byte_level ? add_byte_level(rules, model, std::move(file.merges), out, warnings)
                              : add_byte_fallback(rules, model, std::move(file.merges), out, warnings));
    add_rules(rules, out.metadata);
    return out;
  };
  auto out = read();
  if (!out) return fail(out.error().code, "{}: {}", name, out.error().message);
  return out;
}

}  // namespace quern
