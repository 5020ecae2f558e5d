// The text side of a Hugging Face checkpoint: tokenizer, chat template, generation defaults.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"

namespace quern {

/// The text side of a checkpoint's folder, under the keys that GGUF has for it and with the values that
/// llama.cpp's conversion would write: `tokenizer.ggml.*`, `tokenizer.chat_template`, `general.sampling.*`.
/// So Tokenizer::from_metadata reads it, and a GGUF file that holds it runs in llama.cpp.
///
/// Read are tokenizer.json (BPE, of bytes or with byte fallback) or else tokenizer.model (SentencePiece,
/// BPE), and where they are there added_tokens.json, tokenizer_config.json, special_tokens_map.json,
/// chat_template.jinja, additional_chat_templates/*.jinja, chat_template.json, generation_config.json and
/// config.json (token ids, vocab_size).
///
/// What those keys cannot say stands in keys of our own:
///   tokenizer.quern.patterns         texts: splits by these patterns one after the other (PCRE2, Unicode),
///                                    whatever tokenizer.ggml.pre says; with model "llama": merges instead of
///                                    scores
///   tokenizer.quern.ignore_merges    with patterns: a word that is a token is taken whole
///   tokenizer.quern.normalization    "nfc", "nfd", "nfkc" or "nfkd", before everything else
///   tokenizer.quern.space_prefix     "each" or "first": a space before each stretch of text between special
///                                    tokens, or before the text's beginning alone; none where one is there
///   tokenizer.quern.leftmost_special true: of special tokens that overlap in a text, the first counts, and
///   of
///                                    those that begin together the longest; else the longest of all
///   tokenizer.quern.lstrip, .rstrip  ids of tokens that swallow the white space before or after them
///   tokenizer.quern.end_token_ids    ids that end an answer, where GGUF's keys and llama.cpp's list of names
///                                    do not say so
///   quern.generation.max_new_tokens  from generation_config.json
///
/// Errors name the file and the field: not_found (no tokenizer), corrupt, unsupported. Sizes, nesting and ids
/// are bounded. `warnings` (may be null) gets one line for each thing that is not done as the checkpoint
/// asks.
Result<Metadata> read_hf_text(const std::filesystem::path& folder,
                              std::vector<std::string>* warnings = nullptr);

}  // namespace quern
