// The model hub: from a reference to files on this machine.
//
//   Hub hub(options);
//   QUERN_TRY(LocalModel model, hub.fetch("TheBloke/Mistral-7B-Instruct-v0.2-GGUF:Q8_0", progress, stop));
//   open_gguf(model.files.front());
//
// Local paths (as they stand, or below LLM_MODEL_PATH) and quern/guide are answered without a network; so is
// a commit whose files are in the cache. A branch costs one request, and what the cache holds serves where
// that fails. Everything else is fetched into the cache that all Hugging Face tools share. Safe for several
// threads and processes at once: a file is fetched once.
#pragma once

#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "hub/options.h"
#include "hub/progress.h"
#include "hub/reference.h"

namespace quern {

struct LocalModel {
  enum class Kind {
    guide,       // the model inside the binary: no files
    gguf,        // `files`: one, or all parts in order
    checkpoint,  // `folder`: config.json, tokenizer, *.safetensors
  };
  Kind kind = Kind::gguf;
  std::string id;                            // the reference as written
  std::vector<std::filesystem::path> files;  // the weights: GGUF or safetensors
  std::filesystem::path folder;              // where they lie; empty for the guide
  std::filesystem::path tokenizer_folder;    // of @tokenizer-repo; empty: the model's own
  std::string quantization;  // "Q4_K_M" by the file's name, "gptq" by the configuration; may be empty
  std::string repo, revision, commit;  // empty for local files
  uint64_t bytes = 0;                  // of `files`
};

/// A file of a model that may not be here.
struct HubFile {
  std::string name;
  uint64_t size = 0;
};

/// What the hub would give for a reference.
struct RemoteModel {
  std::string repo, commit, quantization;
  bool checkpoint = false;
  std::vector<HubFile> files;                   // the weights
  std::vector<std::string> quantization_files;  // beside config.json: quantize_config.json, quant_config.json
  std::vector<std::string> alternatives;        // other quantizations (or files) there
};

/// A file of a checkpoint's weights.
struct HubWeights {
  std::string name;
  std::string etag;  // names its content; empty for a file that no hub's tool put into the cache
  uint64_t size = 0;
  bool here = false;
};

/// A checkpoint of the hub: everything but its weights is here.
struct HubCheckpoint {
  LocalModel model;  // `files`: none
  std::vector<HubWeights> weights;
};

class Hub {
 public:
  explicit Hub(HubOptions options) : options_(std::move(options)) {}
  const HubOptions& options() const { return options_; }

  /// Gets everything of the model that is not here yet. Errors say what to do, with the exact command.
  Result<LocalModel> fetch(const std::string& reference, const HubProgressSink& progress = {},
                           const std::stop_token& stop = {}) const;

  /// Gets everything of a checkpoint but its weights (WeightsFetcher gets those) and says what these are,
  /// whether they are here or not. Empty: the reference means something else, which `fetch` gets.
  Result<std::optional<HubCheckpoint>> checkpoint(const std::string& reference,
                                                  const HubProgressSink& progress = {},
                                                  const std::stop_token& stop = {}) const;

  /// As fetch, without a network: not_found when something is missing.
  Result<LocalModel> find(const std::string& reference) const;

  /// Asks the hub, fetches nothing.
  Result<RemoteModel> describe(const std::string& reference, const std::stop_token& stop = {}) const;

  /// Bytes of a file that `describe` named, from the hub.
  Result<std::string> read(const RemoteModel& model, const HubFile& file, uint64_t first, uint64_t count,
                           const std::stop_token& stop = {}) const;

 private:
  HubOptions options_;
};

}  // namespace quern
