#include "text/spm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "text/tokenizer_merge.h"
#include "text/unicode.h"

namespace quern {
namespace {

/// The best score has rank 0; equal scores have equal ranks.
std::vector<uint32_t> rank_scores(const std::vector<double>& scores) {
  const auto score = [&](int32_t id) { return std::isnan(scores[id]) ? -HUGE_VAL : scores[id]; };
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
  std::vector<uint32_t> ranks(scores.size());
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && score(order[i]) != score(order[i - 1])) ++rank;
    ranks[order[i]] = rank;
  }
  return ranks;
}

/// "▁" after something else inside a token, as in "x▁y".
bool has_inner_space(std::string_view token) {
  size_t at = 0;
  while (token.substr(at, escaped_space.size()) == escaped_space) at += escaped_space.size();
  return token.find(escaped_space, at) != std::string_view::npos;
}

class SpmTokenizer final : public TokenizerBase {
 public:
  SpmTokenizer(Vocabulary vocabulary, const TextRules& rules, std::vector<uint32_t> ranks, bool add_space)
      : TokenizerBase(std::move(vocabulary), rules), ranks_(std::move(ranks)), add_space_(add_space) {
    const Vocabulary& v = this->vocabulary();
    for (int byte = 0; byte < 256; ++byte) {
      bytes_[byte] = find_byte_token(v, static_cast<uint8_t>(byte));
      if (bytes_[byte] < 0) bytes_[byte] = v.find(std::string(1, static_cast<char>(byte)));
      if (bytes_[byte] < 0) bytes_[byte] = v.unknown_token();
    }
    for (int32_t id = 0; id < v.size() && words_stand_alone_; ++id) {
      words_stand_alone_ = !joins(id) || !has_inner_space(v.text(id));
    }
  }

 protected:
  void encode_text(std::string_view text, bool spaced, std::vector<int32_t>& out) const override {
    std::string escaped;
    escaped.reserve(text.size() + text.size() / 2 + 3);
    if (spaced) escaped = escaped_space;
    append_escaped(escaped, text);
    PairMerger merger;
    for (std::string_view rest = escaped; !rest.empty();) {
      const size_t length = words_stand_alone_ ? word_length(rest) : rest.size();
      encode_word(rest.substr(0, length), merger, out);
      rest.remove_prefix(length);
    }
  }

  std::string normal_piece(std::string_view spelling) const override { return unescape(spelling); }
  bool adds_space() const override { return add_space_; }

 private:
  /// Control tokens are spelled by nobody: plain text never becomes one.
  bool joins(int32_t id) const { return !vocabulary().has(id, Vocabulary::control | Vocabulary::unknown); }

  /// Up to the next "▁" that follows something else. No token spans that place (words_stand_alone_), so words
  /// can be merged one by one with the same result.
  static size_t word_length(std::string_view text) {
    size_t at = 0;
    while (text.substr(at, escaped_space.size()) == escaped_space) at += escaped_space.size();
    const size_t end = text.find(escaped_space, at);
    return end == std::string_view::npos ? text.size() : end;
  }

  int32_t find_joined(std::string_view text) const {
    const int32_t id = vocabulary().find(text);
    return id >= 0 && joins(id) ? id : -1;
  }

  void encode_word(std::string_view word, PairMerger& merger, std::vector<int32_t>& out) const {
    merger.clear();
    for (size_t at = 0; at < word.size();) {
      const uint32_t length = decode_utf8(word.substr(at)).length;
      merger.add(static_cast<uint32_t>(at), length, find_joined(word.substr(at, length)));
      at += length;
    }
    merger.run([&](const MergeSymbol& left, const MergeSymbol& right, int32_t& merged) {
      merged = find_joined(word.substr(left.begin, left.length + right.length));
      return merged < 0 ? MergeSymbol::no_rank : ranks_[merged];
    });
    merger.each([&](const MergeSymbol& symbol) {
      if (symbol.id >= 0) {
        out.push_back(symbol.id);
        return;
      }
      for (const char c : word.substr(symbol.begin, symbol.length)) {
        const int32_t id = bytes_[static_cast<uint8_t>(c)];
        if (id >= 0) out.push_back(id);
      }
    });
  }

  std::vector<uint32_t> ranks_;
  std::array<int32_t, 256> bytes_;
  bool add_space_;
  bool words_stand_alone_ = true;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_spm_tokenizer(const Metadata& metadata, Warnings& warnings) {
  const Vocabulary::Defaults defaults{.bos = 1, .eos = 2, .unknown = 0, .add_bos = true};
  QUERN_TRY(Vocabulary vocabulary, Vocabulary::read(metadata, defaults, warnings));
  constexpr std::string_view key = "tokenizer.ggml.scores";
  std::vector<double> scores(vocabulary.size(), 0.0);
  if (!metadata.contains(key)) {
    warnings.push_back(fmt::format("{}: missing: all pairs join with equal right", key));
  } else {
    auto read = metadata.numbers(key);
    if (!read) return fail(ErrorCode::corrupt, "{}: not an array of numbers", key);
    if (read->size() < scores.size()) {
      return fail(ErrorCode::corrupt, "{}: {} entries for {} tokens", key, read->size(), scores.size());
    }
    read->resize(scores.size());
    scores = std::move(*read);
  }
  const bool add_space = metadata.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  return std::make_unique<SpmTokenizer>(std::move(vocabulary), TextRules::read(metadata, warnings),
                                        rank_scores(scores), add_space);
}

}  // namespace quern
