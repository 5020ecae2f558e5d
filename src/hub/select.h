// Which files of a repo make the model. Pure: names in, names out.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "hub/reference.h"

namespace quern::hub {

/// One GGUF model of a repo: one file, or all parts of a split one in order.
struct GgufModel {
  std::string quant;               // in upper case; empty when the name says nothing
  std::vector<std::string> files;  // never empty
  bool complete = true;            // all parts are there
};

/// The models among `files`, sorted by their first file. Projectors (mmproj) and importance matrices are no
/// models: "imatrix" in a name means one, unless a quantized type stands beside it or it is `named`.
std::vector<GgufModel> gguf_models(std::span<const std::string> files, std::string_view named = {});

struct Selection {
  enum class Kind { gguf, checkpoint };
  Kind kind = Kind::gguf;
  std::vector<std::string> files;         // to have on disk; without shards that `index` names
  std::string index;                      // checkpoint: the file that names its shards; empty when none does
  std::vector<std::string> weights;       // checkpoint without index: those of `files` that are weights
  std::string chosen;                     // "Q4_K_M", or the file where the name says no type
  bool by_default = false;                // nobody asked for this one: say so
  std::vector<std::string> alternatives;  // the other types (or files) of the repo
};

/// Chooses by the reference's file or quantization; else Q4_K_M or the nearest type there is; without GGUF
/// files a safetensors checkpoint with its configuration and tokenizer. not_found names the nearest there
/// are.
Result<Selection> select_files(const ModelReference& reference, std::span<const std::string> files);

/// Files that make a tokenizer and its chat template, as far as there are any; empty when there is none.
std::vector<std::string> tokenizer_files(std::span<const std::string> files);

/// Up to `count` of `candidates`, nearest to `wanted` first, case ignored.
std::vector<std::string> nearest_names(std::string_view wanted, std::vector<std::string> candidates,
                                       size_t count);

}  // namespace quern::hub
