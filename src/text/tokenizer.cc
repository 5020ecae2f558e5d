#include "text/tokenizer.h"

#include "text/bpe.h"
#include "text/spm.h"
#include "text/tokenizer_base.h"

namespace quern {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

constexpr size_t longest_run = size_t{1} << 28;  // symbols are counted in 32 bits

/// `length` or a little less, so that no character is cut in two.
size_t whole_characters(std::string_view text, size_t length) {
  if (length >= text.size()) return text.size();
  size_t end = length;
  while (end > length - 3 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_metadata(const Metadata& metadata,
                                                            std::vector<std::string>* warnings) {
  Warnings ignored;
  Warnings& told = warnings != nullptr ? *warnings : ignored;
  constexpr std::string_view key = "tokenizer.ggml.model";
  const std::string* model = metadata.string(key);
  if (model == nullptr) {
    return fail(ErrorCode::corrupt, "{}: {}: the file has no tokenizer", key,
                metadata.contains(key) ? "not a string" : "missing");
  }
  // A vocabulary whose merges say more than its scores; see hf_tokenizer.h.
  if (*model == "llama" && metadata.contains("tokenizer.quern.patterns"))
    return make_bpe_tokenizer(metadata, told);
  if (*model == "llama") return make_spm_tokenizer(metadata, told);
  if (*model == "gpt2") return make_bpe_tokenizer(metadata, told);
  return fail(ErrorCode::unsupported, "{}: '{}' is not supported (only llama and gpt2 are)", key, *model);
}

std::vector<int32_t> TokenizerBase::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> out;
  if (options.add_special && add_bos()) out.push_back(bos());
  bool starts = true;
  for (const Fragment& fragment : special_tokens_.partition(vocabulary_, text, options.parse_special)) {
    if (fragment.token >= 0) {
      out.push_back(fragment.token);
      starts = rules_.prefix != TextRules::Prefix::first;
      continue;
    }
    std::string normalized;
    std::string_view rest = fragment.text;
    if (rules_.normalization != Normalization::none)
      rest = normalized = normalize(rest, rules_.normalization);
    for (; !rest.empty(); starts = false) {
      const size_t length = whole_characters(rest, longest_run);
      const std::string_view part = rest.substr(0, length);
      encode_text(part, rules_.wants_space(part, starts, adds_space()), out);
      rest.remove_prefix(length);
    }
  }
  if (options.add_special && add_eos()) out.push_back(eos());
  return out;
}

std::string TokenizerBase::piece(int32_t token, bool special) const {
  if (!vocabulary_.contains(token)) return {};
  const std::string_view spelling = vocabulary_.text(token);
  if (vocabulary_.has(token, Vocabulary::control | Vocabulary::unknown)) {
    return special ? std::string(spelling) : std::string();
  }
  if (vocabulary_.has(token, Vocabulary::user_defined)) return std::string(spelling);
  if (vocabulary_.has(token, Vocabulary::normal)) return normal_piece(spelling);
  if (vocabulary_.has(token, Vocabulary::byte)) {
    const int byte = parse_byte_token(spelling);
    return byte < 0 ? std::string(spelling) : std::string(1, static_cast<char>(byte));
  }
  return {};  // unused
}

std::string TokenizerBase::decode(std::span<const int32_t> tokens, bool special) const {
  std::string out;
  bool starts = adds_space() || rules_.prefix != TextRules::Prefix::unsaid;
  for (const int32_t token : tokens) {
    if (!vocabulary_.contains(token)) continue;
    const std::string text = piece(token, special);
    if (vocabulary_.has(token, Vocabulary::control | Vocabulary::unknown | Vocabulary::user_defined)) {
      out += text;
      continue;
    }
    out.append(text, starts && !text.empty() && text[0] == ' ' ? 1 : 0);
    starts = false;
  }
  return out;
}

int parse_byte_token(std::string_view spelling) {
  if (spelling.size() != 6 || spelling.substr(0, 3) != "<0x" || spelling[5] != '>') return -1;
  const int high = hex_digit(spelling[3]), low = hex_digit(spelling[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

int32_t find_byte_token(const Vocabulary& vocabulary, uint8_t byte) {
  return vocabulary.find(fmt::format("<0x{:02X}>", byte));
}

void append_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c == ' ') {
      out += escaped_space;
    } else {
      out += c;
    }
  }
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t at; (at = text.find(escaped_space)) != std::string_view::npos;) {
    out.append(text.substr(0, at)).push_back(' ');
    text.remove_prefix(at + escaped_space.size());
  }
  return out.append(text);
}

}  // namespace quern
