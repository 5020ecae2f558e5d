#include "text/tokenizer_vocabulary.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace quern {
namespace {

// tokenizer.ggml.token_type
uint8_t flags_of_type(int64_t type) {
  switch (type) {
    case 1:
      return Vocabulary::normal;
    case 2:
      return Vocabulary::unknown;
    case 3:
      return Vocabulary::control;
    case 4:
      return Vocabulary::user_defined;
    case 5:
      return Vocabulary::unused;
    case 6:
      return Vocabulary::byte;
    default:
      return 0;
  }
}

size_t slot_of(std::string_view text, size_t mask) { return std::hash<std::string_view>{}(text)&mask; }

/// The id under `key`, else `fallback`; neither where it is not in the vocabulary.
int32_t read_id(const Metadata& metadata, std::string_view key, int32_t fallback, int32_t size,
                Warnings& warnings) {
  if (fallback >= size) fallback = -1;
  if (!metadata.contains(key)) return fallback;
  const std::optional<int64_t> id = metadata.integer(key);
  if (id && *id >= 0 && *id < size) return static_cast<int32_t>(*id);
  warnings.push_back(fmt::format("{}: not a token of the vocabulary of {}: {}", key, size,
                                 fallback < 0 ? "left out" : fmt::format("{} is taken", fallback)));
  return fallback;
}

constexpr std::string_view end_names[] = {"<|eot_id|>",
                                          "<|im_end|>",
                                          "<|end|>",
                                          "<|return|>",
                                          "<|call|>",
                                          "<|flush|>",
                                          "<|calls|>",
                                          "<end_of_turn>",
                                          "<|endoftext|>",
                                          "</s>",
                                          "<|eom_id|>",
                                          "<EOT>",
                                          "_<EOT>",
                                          "[EOT]",
                                          "[EOS]",
                                          "<|end_of_text|>",
                                          "<end_of_utterance>",
                                          "<eos>",
                                          "<turn|>",
                                          "<|tool_response>",
                                          "<｜end▁of▁sentence｜>",
                                          "[e~["};

bool contains_lowercase(const std::string* text, std::string_view wanted) {
  if (text == nullptr) return false;
  std::string lower = *text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower.find(wanted) != std::string::npos;
}

}  // namespace

Result<Vocabulary> Vocabulary::read(const Metadata& metadata, const Defaults& defaults, Warnings& warnings) {
  Vocabulary vocabulary;
  QUERN_TRY_VOID(vocabulary.read_tokens(metadata));
  QUERN_TRY_VOID(vocabulary.read_types(metadata));
  vocabulary.build_index(warnings);
  vocabulary.read_roles(metadata, defaults, warnings);
  vocabulary.read_added(metadata, defaults, warnings);
  vocabulary.apply_exceptions(metadata);
  vocabulary.read_own_keys(metadata, warnings);
  return vocabulary;
}

Result<> Vocabulary::read_tokens(const Metadata& metadata) {
  constexpr std::string_view key = "tokenizer.ggml.tokens";
  if (!metadata.contains(key))
    return fail(ErrorCode::corrupt, "{}: missing: the file has no vocabulary", key);
  const std::vector<std::string>* tokens = metadata.strings(key);
  if (tokens == nullptr) return fail(ErrorCode::corrupt, "{}: not an array of strings", key);
  if (tokens->empty()) return fail(ErrorCode::corrupt, "{}: empty", key);
  if (tokens->size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return fail(ErrorCode::corrupt, "{}: {} tokens: more than ids can count", key, tokens->size());
  }
  size_t bytes = 0;
  for (const std::string& token : *tokens) bytes += token.size(), longest_ = std::max(longest_, token.size());
  letters_.reserve(bytes);
  offsets_.reserve(tokens->size() + 1);
  offsets_.push_back(0);
  for (const std::string& token : *tokens) {
    letters_.insert(letters_.end(), token.begin(), token.end());
    offsets_.push_back(letters_.size());
  }
  flags_.assign(tokens->size(), normal);
  return {};
}

Result<> Vocabulary::read_types(const Metadata& metadata) {
  constexpr std::string_view key = "tokenizer.ggml.token_type";
  if (!metadata.contains(key)) return {};
  const auto types = metadata.integers(key);
  if (!types) return fail(ErrorCode::corrupt, "{}: not an array of integers", key);
  if (types->size() < flags_.size()) {
    return fail(ErrorCode::corrupt, "{}: {} entries for {} tokens", key, types->size(), flags_.size());
  }
  for (size_t i = 0; i < flags_.size(); ++i) flags_[i] = flags_of_type((*types)[i]);
  return {};
}

void Vocabulary::build_index(Warnings& warnings) {
  size_t slots = 16;
  while (slots < 2 * flags_.size()) slots *= 2;
  slots_.assign(slots, -1);
  size_t twice = 0;
  int32_t example = -1;
  for (int32_t id = 0; id < size(); ++id) {
    if (text(id).empty()) continue;
    size_t slot = slot_of(text(id), slots - 1);
    while (slots_[slot] >= 0 && text(slots_[slot]) != text(id)) slot = (slot + 1) & (slots - 1);
    if (slots_[slot] >= 0) {
      ++twice, example = id;
    } else {
      slots_[slot] = id;
    }
  }
  if (twice > 0) {
    warnings.push_back(
        fmt::format("tokenizer.ggml.tokens: {} tokens are there twice, such as '{}': the first is taken",
                    twice, text(example)));
  }
}

int32_t Vocabulary::find(std::string_view wanted) const {
  if (wanted.empty() || wanted.size() > longest_) return -1;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = slot_of(wanted, mask); slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (text(slots_[slot]) == wanted) return slots_[slot];
  }
  return -1;
}

/// The first of the names that is a token, made a control token.
int32_t Vocabulary::find_named(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const int32_t id = find(name);
    if (id < 0) continue;
    flags_[id] |= control;
    return id;
  }
  return -1;
}

void Vocabulary::read_roles(const Metadata& metadata, const Defaults& defaults, Warnings& warnings) {
  const auto id = [&](std::string_view name, int32_t fallback = -1) {
    return read_id(metadata, fmt::format("tokenizer.ggml.{}_token_id", name), fallback, size(), warnings);
  };
  const auto trusted = [&](int32_t fallback) {
    const bool told = metadata.contains("tokenizer.ggml.token_type") && fallback >= 0 && fallback < size();
    return told && defaults.only_control && !has(fallback, control) ? -1 : fallback;
  };
  bos_ = id("bos", trusted(defaults.bos));
  eos_ = id("eos", trusted(defaults.eos));
  unknown_ = id("unknown", defaults.unknown);
  int32_t eot = id("eot"), eom = id("eom");
  // The second name of each is older.
  infill_.prefix = id("prefix", id("fim_pre"));
  infill_.suffix = id("suffix", id("fim_suf"));
  infill_.middle = id("middle", id("fim_mid"));
  int32_t pad = id("fim_pad"), repository = id("fim_rep"), separator = id("fim_sep");

  if (eot < 0) {
    eot = find_named({"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
                      "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>",
                      "<end_of_utterance>"});
  }
  if (eom < 0) eom = find_named({"<|eom_id|>"});
  if (infill_.prefix < 0) {
    infill_.prefix = find_named({"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>",
                                 "▁<PRE>", "<|code_prefix|>", "<|prefix|>"});
  }
  if (infill_.suffix < 0) {
    infill_.suffix = find_named({"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>",
                                 "▁<SUF>", "<|code_suffix|>", "<|suffix|>"});
  }
  if (infill_.middle < 0) {
    infill_.middle = find_named({"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
                                 "▁<MID>", "<|code_middle|>", "<|middle|>"});
  }
  if (pad < 0) pad = find_named({"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"});
  if (repository < 0) {
    repository = find_named({"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"});
  }
  if (separator < 0) separator = find_named({"<|file_sep|>"});
  find_ends(eot, eom, {pad, repository, separator});
}

void Vocabulary::find_ends(int32_t eot, int32_t eom, std::vector<int32_t> infill_ends) {
  ends_ = std::move(infill_ends);
  for (const std::string_view name : end_names) {
    ends_.push_back(find_named({name}));
  }
  ends_.insert(ends_.end(), {eos_, eot, eom});
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  if (!ends_.empty() && ends_.front() < 0) ends_.erase(ends_.begin());
}

bool Vocabulary::is_end(int32_t id) const { return std::binary_search(ends_.begin(), ends_.end(), id); }

bool names_an_end(std::string_view token) {
  return std::find(std::begin(end_names), std::end(end_names), token) != std::end(end_names);
}

void Vocabulary::remove_end(int32_t id) {
  ends_.erase(std::remove(ends_.begin(), ends_.end(), id), ends_.end());
}

/// Families whose files do not say what their tokens are for; the same ones as in llama.cpp.
void Vocabulary::apply_exceptions(const Metadata& metadata) {
  // gpt-oss: parts of the answer's framing, to be seen by whoever parses it.
  for (const std::string_view name : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
    if (const int32_t id = find(name); id >= 0) flags_[id] = user_defined;
  }
  // gpt-oss and Solar: <|end|> closes a part of the answer, not the answer.
  const auto ends = [&](std::string_view name) { return is_end(find(name)); };
  if ((ends("<|return|>") || ends("<|flush|>")) && (ends("<|call|>") || ends("<|calls|>")) &&
      ends("<|end|>")) {
    const int32_t id = find("<|end|>");
    remove_end(id);
    flags_[id] = user_defined;
  }
  // Gemma 4 and PaddleOCR: </s> is a word.
  if (ends("<|tool_response>") && ends("</s>")) {
    const int32_t id = find("</s>");
    remove_end(id);
    flags_[id] = normal;
  }
  for (int32_t id = 0; id < size(); ++id) {
    if (has(id, control | user_defined | unknown) && !text(id).empty()) special_.push_back(id);
  }
  // Phi-3: special tokens swallow the white space that follows.
  const std::string* name = metadata.string("general.name");
  if (contains_lowercase(name, "phi-3") || contains_lowercase(name, "phi3")) {
    for (const int32_t id : special_) flags_[id] |= strip_right;
    if (const int32_t id = find("</s>"); id >= 0) flags_[id] |= strip_right;
    for (const std::string_view plain : {"<unk>", "<s>", "<|endoftext|>"}) {
      if (const int32_t id = find(plain); id >= 0) flags_[id] &= static_cast<uint8_t>(~strip_right);
    }
  }
}

/// What GGUF has no keys for; see hf_tokenizer.h.
void Vocabulary::read_own_keys(const Metadata& metadata, Warnings& warnings) {
  const auto each = [&](std::string_view key, const auto& visit) {
    const auto ids = metadata.integers(key);
    if (!ids && metadata.contains(key))
      warnings.push_back(fmt::format("{}: not an array of ids: left out", key));
    size_t others = 0;  // told together: there may be a billion of them
    int64_t example = -1;
    for (const int64_t id : ids.value_or(std::vector<int64_t>())) {
      if (id >= 0 && id < size()) {
        visit(static_cast<int32_t>(id));
      } else {
        ++others, example = id;
      }
    }
    if (others > 0) {
      warnings.push_back(
          fmt::format("{}: {} of its ids, such as {}, are no tokens of the vocabulary of {}: left out", key,
                      others, example, size()));
    }
  };
  leftmost_special_ = metadata.boolean("tokenizer.quern.leftmost_special").value_or(false);
  each("tokenizer.quern.lstrip", [&](int32_t id) { flags_[id] |= strip_left; });
  each("tokenizer.quern.rstrip", [&](int32_t id) { flags_[id] |= strip_right; });
  each("tokenizer.quern.end_token_ids", [&](int32_t id) { ends_.push_back(id); });
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
}

void Vocabulary::read_added(const Metadata& metadata, const Defaults& defaults, Warnings& warnings) {
  const auto flag = [&](std::string_view key, bool fallback) {
    if (!metadata.contains(key)) return fallback;
    const auto value = metadata.boolean(key);
    if (!value) warnings.push_back(fmt::format("{}: not a boolean: {} is taken", key, fallback));
    return value.value_or(fallback);
  };
  add_bos_ = flag("tokenizer.ggml.add_bos_token", defaults.add_bos);
  add_eos_ = flag("tokenizer.ggml.add_eos_token", false);
  if (add_bos_ && bos_ < 0) {
    warnings.push_back("tokenizer.ggml.add_bos_token is true, but the vocabulary has no BOS: none is added");
    add_bos_ = false;
  }
  if (add_eos_ && eos_ < 0) {
    warnings.push_back("tokenizer.ggml.add_eos_token is true, but the vocabulary has no EOS: none is added");
    add_eos_ = false;
  }
}

}  // namespace quern
