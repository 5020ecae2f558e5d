#include "make_model/vocabulary.h"

#include <fmt/format.h>

#include "formats/gguf.h"

namespace quern::make_model {
namespace {

enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  std::vector<int64_t> types;
  std::vector<std::string> merges;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t add(std::string token, TokenType type, double score = 0) {
    tokens.push_back(std::move(token));
    types.push_back(type);
    scores.push_back(score);
    return size() - 1;
  }
};

std::string utf8(unsigned code) {
  std::string out;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 63));
  } else {
    out += static_cast<char>(0xe0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 63));
    out += static_cast<char>(0x80 | (code & 63));
  }
  return out;
}

/// Calls visit(prefix, last letter) for tokens in an order in which every prefix comes first, until it
/// returns false: `space` + "a", …, "aa", `space` + "aa", …, up to four letters.
template <class Visit>
bool for_each_word(const std::string& space, const Visit& visit) {
  int64_t words = 1;
  for (int length = 1; length <= 4; ++length) {
    words *= 26;
    for (int64_t i = 0; i < words; ++i) {
      std::string word(static_cast<size_t>(length), 'a');
      int64_t rest = i;
      for (size_t k = word.size(); k-- > 0; rest /= 26) word[k] = static_cast<char>('a' + rest % 26);
      const std::string prefix = word.substr(0, word.size() - 1);
      const std::string last = word.substr(word.size() - 1);
      if (length > 1 && !visit(prefix, last)) return false;
      if (!visit(space + prefix, last)) return false;
    }
  }
  return true;
}

constexpr const char* kSpmTemplate =
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";
constexpr const char* kBpeTemplate =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

tl::unexpected<Error> bad_size(int64_t size, int64_t least) {
  return fail(ErrorCode::invalid_argument, "--vocab-size {}: from {} to 900000 tokens are possible", size,
              least);
}

Result<> add_spm(Metadata& metadata, int64_t size, bool old) {
  if (size < 400 || size > 900000) return bad_size(size, 400);
  const std::string space = utf8(0x2581);
  Vocabulary v;
  v.add("<unk>", kUnknown);
  v.add("<s>", kControl);
  v.add("</s>", kControl);
  for (int byte = 0; byte < 256; ++byte) v.add(fmt::format("<0x{:02X}>", byte), kByte);
  v.add("<|endoftext|>", kControl);  // llama.cpp asks for it in models that are named phi3
  const int64_t first_word = v.size();
  constexpr double kWorst = -1e6;  // single characters are what merges start from
  v.add(space, kNormal, kWorst);
  for (unsigned c = 0x21; c < 0x7f; ++c) v.add(utf8(c), kNormal, kWorst - c);
  for_each_word(space, [&](const std::string& prefix, const std::string& last) {
    if (v.size() == size) return false;
    v.add(prefix + last, kNormal, static_cast<double>(first_word - v.size()));
    return true;
  });
  metadata.add("tokenizer.ggml.model", std::string("llama"));
  if (!old) metadata.add("tokenizer.ggml.pre", std::string("default"));
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{std::move(v.tokens)});
  metadata.add("tokenizer.ggml.scores", Metadata::Array{std::move(v.scores)});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{std::move(v.types)});
  metadata.add("tokenizer.ggml.bos_token_id", uint64_t{1});
  metadata.add("tokenizer.ggml.eos_token_id", uint64_t{2});
  metadata.add("tokenizer.ggml.unknown_token_id", uint64_t{0});
  if (!old) {
    metadata.add("tokenizer.ggml.add_bos_token", true);
    metadata.add("tokenizer.ggml.add_eos_token", false);
    metadata.add("tokenizer.chat_template", std::string(kSpmTemplate));
  }
  return {};
}

/// The character that stands for a byte: itself where it is printable Latin-1, else one from U+0100 on.
std::vector<std::string> byte_characters() {
  std::vector<std::string> out;
  unsigned next = 256;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
    out.push_back(utf8(printable ? b : next++));
  }
  return out;
}

Result<> add_bpe(Metadata& metadata, int64_t size, std::string_view pre, bool old) {
  constexpr int64_t kSpecial = 3;
  if (size < 300 || size > 900000) return bad_size(size, 300);
  Vocabulary v;
  const std::vector<std::string> bytes = byte_characters();
  for (const std::string& character : bytes) v.add(character, kNormal);
  for_each_word(bytes[' '], [&](const std::string& prefix, const std::string& last) {
    if (v.size() == size - kSpecial) return false;
    v.add(prefix + last, kNormal);
    v.merges.push_back(prefix + " " + last);
    return true;
  });
  const int64_t end = v.add("<|endoftext|>", kControl);
  v.add("<|im_start|>", kControl);
  const int64_t turn_end = v.add("<|im_end|>", kControl);
  metadata.add("tokenizer.ggml.model", std::string("gpt2"));
  if (!old) metadata.add("tokenizer.ggml.pre", std::string(pre));
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{std::move(v.tokens)});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{std::move(v.types)});
  metadata.add("tokenizer.ggml.merges", Metadata::Array{std::move(v.merges)});
  metadata.add("tokenizer.ggml.bos_token_id", static_cast<uint64_t>(end));
  metadata.add("tokenizer.ggml.eos_token_id", static_cast<uint64_t>(turn_end));
  if (!old) {
    metadata.add("tokenizer.ggml.add_bos_token", false);
    metadata.add("tokenizer.chat_template", std::string(kBpeTemplate));
  }
  return {};
}

}  // namespace

Result<> add_made_up_vocabulary(Metadata& metadata, VocabularyKind kind, int64_t size, std::string_view pre,
                                bool old) {
  return kind == VocabularyKind::spm ? add_spm(metadata, size, old) : add_bpe(metadata, size, pre, old);
}

Result<int64_t> add_vocabulary_of(Metadata& metadata, const std::string& path, bool old) {
  QUERN_TRY(const auto source, open_gguf(std::filesystem::path(path)));
  const auto* tokens = source->metadata().strings("tokenizer.ggml.tokens");
  if (tokens == nullptr)
    return fail(ErrorCode::invalid_argument, "{}: has no vocabulary (tokenizer.ggml.tokens)", path);
  for (const auto& [key, value] : source->metadata().entries()) {
    const bool recent = key == "tokenizer.ggml.pre" || key == "tokenizer.chat_template";
    if (key.starts_with("tokenizer.") && !(old && recent)) metadata.add(key, value);
  }
  return static_cast<int64_t>(tokens->size());
}

}  // namespace quern::make_model
