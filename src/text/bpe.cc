#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "text/pretokenizer.h"
#include "text/tokenizer_merge.h"
#include "text/unicode.h"

namespace quern {
namespace {

/// (left id, right id) → rank and joined id. Open addressing: a look-up for each pair of neighbours is most
/// of the work of encoding.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = free;
    uint32_t rank = 0;
    int32_t merged = -1;
  };

  explicit MergeTable(size_t merges) {
    size_t slots = 16;
    while (slots < 2 * merges) slots *= 2;
    slots_.resize(slots);
  }
  /// The first of equals stays.
  void add(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    Merge& slot = slots_[find_slot(key(left, right))];
    if (slot.pair == free) slot = {key(left, right), rank, merged};
  }
  /// nullptr: these do not join.
  const Merge* find(int32_t left, int32_t right) const {
    const Merge& slot = slots_[find_slot(key(left, right))];
    return slot.pair == free ? nullptr : &slot;
  }

 private:
  static constexpr uint64_t free = UINT64_MAX;
  static uint64_t key(int32_t left, int32_t right) {
    return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
  }
  size_t find_slot(uint64_t pair) const {
    const size_t mask = slots_.size() - 1;
    uint64_t hash = pair * 0x9E3779B97F4A7C15;
    size_t slot = (hash ^ (hash >> 32)) & mask;
    while (slots_[slot].pair != pair && slots_[slot].pair != free) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<Merge> slots_;
};

/// Ids for spellings: the vocabulary's, and ids past its end for what occurs in merges alone.
class Spellings {
 public:
  explicit Spellings(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  int32_t intern(std::string_view text) {
    if (const int32_t id = vocabulary_.find(text); id >= 0) return id;
    const auto next = static_cast<int32_t>(vocabulary_.size() + others_.size());
    return others_.emplace(text, next).first->second;
  }
  std::unordered_map<std::string, int32_t> take_others() { return std::move(others_); }

 private:
  const Vocabulary& vocabulary_;
  std::unordered_map<std::string, int32_t> others_;
};

class BpeTokenizer final : public TokenizerBase {
 public:
  BpeTokenizer(Vocabulary vocabulary, const TextRules& rules, PreTokenizerSpec spec, PreTokenizer words,
               MergeTable merges, std::unordered_map<std::string, int32_t> others)
      : TokenizerBase(std::move(vocabulary), rules),
        spec_(std::move(spec)),
        words_(std::move(words)),
        merges_(std::move(merges)),
        others_(std::move(others)) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string& spelling = byte_to_char()[byte];
      byte_symbols_[byte] = symbol(spelling);
      byte_tokens_[byte] = spec_.byte_encode
                               ? this->vocabulary().find(spelling)
                               : find_byte_token(this->vocabulary(), static_cast<uint8_t>(byte));
    }
  }

 protected:
  void encode_text(std::string_view text, bool spaced, std::vector<int32_t>& out) const override {
    std::string changed;
    if (spec_.escape_spaces) {
      if (spaced) changed = escaped_space;
      append_escaped(changed, text);
      text = changed;
    } else if (spaced) {
      text = changed.append(" ").append(text);
    }
    std::vector<uint32_t> lengths;
    lengths.reserve(text.size() / 4 + 1);
    words_.split(text, lengths);
    PairMerger merger;
    std::string spelling;
    for (const uint32_t length : lengths) {
      encode_word(text.substr(0, length), merger, spelling, out);
      text.remove_prefix(length);
    }
  }

  bool adds_space() const override { return spec_.space_prefix; }

  /// Spellings in GPT-2's alphabet are bytes; one with other characters (an added token) is itself.
  std::string normal_piece(std::string_view spelling) const override {
    if (spec_.escape_spaces) return unescape(spelling);
    if (!spec_.byte_encode) return std::string(spelling);
    std::string out;
    for (size_t at = 0; at < spelling.size();) {
      const Utf8Step step = decode_utf8(spelling.substr(at));
      const int byte = step.valid ? char_to_byte(step.code_point) : -1;
      if (byte < 0) return std::string(spelling);
      out.push_back(static_cast<char>(byte));
      at += step.length;
    }
    return out;
  }

 private:
  int32_t symbol(std::string_view spelling) const {
    if (const int32_t id = vocabulary().find(spelling); id >= 0 || others_.empty()) return id;
    const auto other = others_.find(std::string(spelling));
    return other == others_.end() ? -1 : other->second;
  }

  /// The token that the whole word is, where the rules say to look for it; else −1.
  int32_t whole_word(std::string_view word, std::string& spelling) const {
    const bool lines = spec_.whole_line_breaks && word.find_first_not_of('\n') == std::string_view::npos;
    if ((!spec_.ignore_merges && !lines) || word.size() > vocabulary().longest()) return -1;
    if (spec_.byte_encode) {
      spelling.clear();
      for (const char c : word) spelling += byte_to_char()[static_cast<uint8_t>(c)];
      word = spelling;
    }
    const int32_t id = vocabulary().find(word);
    return id >= 0 && vocabulary().has(id, Vocabulary::control | Vocabulary::unknown) ? -1 : id;
  }

  void encode_word(std::string_view word, PairMerger& merger, std::string& spelling,
                   std::vector<int32_t>& out) const {
    if (const int32_t id = whole_word(word, spelling); id >= 0) {
      out.push_back(id);
      return;
    }
    merger.clear();
    for (size_t at = 0; at < word.size();) {
      const uint32_t length = spec_.byte_encode ? 1 : decode_utf8(word.substr(at)).length;
      const int32_t id =
          spec_.byte_encode ? byte_symbols_[static_cast<uint8_t>(word[at])] : symbol(word.substr(at, length));
      merger.add(static_cast<uint32_t>(at), length, id);
      at += length;
    }
    merger.run([&](const MergeSymbol& left, const MergeSymbol& right, int32_t& merged) {
      const MergeTable::Merge* merge =
          left.id < 0 || right.id < 0 ? nullptr : merges_.find(left.id, right.id);
      if (merge == nullptr) return MergeSymbol::no_rank;
      merged = merge->merged;
      return merge->rank;
    });
    merger.each([&](const MergeSymbol& symbol) {
      if (symbol.id >= 0 && symbol.id < size()) {
        out.push_back(symbol.id);
        return;
      }
      for (const char c : word.substr(symbol.begin, symbol.length)) {
        const int32_t id = byte_tokens_[static_cast<uint8_t>(c)];
        if (id >= 0) out.push_back(id);
      }
    });
  }

  PreTokenizerSpec spec_;
  PreTokenizer words_;
  MergeTable merges_;
  std::unordered_map<std::string, int32_t> others_;
  std::array<int32_t, 256> byte_symbols_;  // may be past the vocabulary's end
  std::array<int32_t, 256> byte_tokens_;
};

/// Patterns of the file's own; see hf_tokenizer.h.
Result<PreTokenizerSpec> own_rules(const Metadata& metadata) {
  constexpr std::string_view key = "tokenizer.quern.patterns";
  const std::vector<std::string>* patterns = metadata.strings(key);
  if (patterns == nullptr) return fail(ErrorCode::corrupt, "{}: not an array of strings", key);
  constexpr size_t most = 64;
  if (patterns->size() > most)
    return fail(ErrorCode::corrupt, "{}: {} patterns, at most {} are read", key, patterns->size(), most);
  PreTokenizerSpec spec;
  spec.names = {key};
  for (const std::string& pattern : *patterns) spec.rules.push_back({SplitRule::Kind::pattern, pattern, {}});
  spec.on_text = true;
  spec.ignore_merges = metadata.boolean("tokenizer.quern.ignore_merges").value_or(false);
  if (*metadata.string("tokenizer.ggml.model") == "llama") {
    spec.byte_encode = false;
    spec.escape_spaces = true;
    spec.space_prefix = metadata.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  }
  return spec;
}

Result<PreTokenizerSpec> choose_rules(const Metadata& metadata, Warnings& warnings) {
  if (metadata.contains("tokenizer.quern.patterns")) return own_rules(metadata);
  constexpr std::string_view key = "tokenizer.ggml.pre";
  const std::string* name = metadata.string(key);
  if (name != nullptr) {
    if (const PreTokenizerSpec* spec = find_pre_tokenizer(*name)) return *spec;
  }
  warnings.push_back(
      name == nullptr
          ? fmt::format("{}: missing: 'default' is taken; answers may suffer", key)
          : fmt::format("{}: '{}' is not known: 'default' is taken; answers may suffer", key, *name));
  return *find_pre_tokenizer("default");
}

Result<MergeTable> read_merges(const Metadata& metadata, Spellings& spellings) {
  constexpr std::string_view key = "tokenizer.ggml.merges";
  if (!metadata.contains(key)) return fail(ErrorCode::corrupt, "{}: missing: the vocabulary needs it", key);
  const std::vector<std::string>* merges = metadata.strings(key);
  if (merges == nullptr) return fail(ErrorCode::corrupt, "{}: not an array of strings", key);
  if (merges->size() >= MergeSymbol::no_rank / 4) {
    return fail(ErrorCode::corrupt, "{}: {} merges: too many", key, merges->size());
  }
  MergeTable table(merges->size());
  std::string joined;
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    const std::string_view merge = (*merges)[rank];
    // "left right"; from 1 on, because a space may itself be the left part.
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) continue;
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left).append(right);
    const int32_t left_id = spellings.intern(left), right_id = spellings.intern(right);
    table.add(left_id, right_id, static_cast<uint32_t>(rank), spellings.intern(joined));
  }
  return table;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_bpe_tokenizer(const Metadata& metadata, Warnings& warnings) {
  QUERN_TRY(PreTokenizerSpec spec, choose_rules(metadata, warnings));
  Vocabulary::Defaults defaults{.bos = 11, .eos = 11, .add_bos = spec.add_bos, .only_control = true};
  if (spec.no_default_bos) defaults.bos = -1;
  QUERN_TRY(Vocabulary vocabulary, Vocabulary::read(metadata, defaults, warnings));
  QUERN_TRY(PreTokenizer words, PreTokenizer::compile(spec));
  Spellings spellings(vocabulary);
  QUERN_TRY(MergeTable merges, read_merges(metadata, spellings));
  auto others = spellings.take_others();
  return std::make_unique<BpeTokenizer>(std::move(vocabulary), TextRules::read(metadata, warnings),
                                        std::move(spec), std::move(words), std::move(merges),
                                        std::move(others));
}

}  // namespace quern
