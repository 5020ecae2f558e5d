// In-situ quantization: a full-precision model quantized while it loads, once; the result is kept and opened
// by later starts as any GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "formats/weight_source.h"
#include "quantize/quantizer.h"

namespace quern {

struct IsqOptions {
  DType type = DType::Q4_K;
  std::filesystem::path cache;  // folder for results
  std::string id;               // the model's reference: names the result for people
  int threads = 0;              // 0: physical cores
  /// Bytes of the source that are done; false cancels.
  std::function<bool(uint64_t done, uint64_t total)> progress;
  /// Called once when another process quantizes the same, before waiting for it.
  std::function<void()> waiting;
};

/// What a result is made of.
struct IsqContent {
  std::filesystem::path folder;            // of the checkpoint
  std::filesystem::path tokenizer_folder;  // of another one's tokenizer; empty: its own
  /// The files of the weights, here or not, and the hash of what is in each. Empty: those in the folder.
  std::map<std::string, std::string> weights;
};

/// A name for the content, 32 hexadecimal digits. Files that lie in the hub's cache are known by their
/// hashes; of others, small ones are read, and large ones are known by their size, their time of change and
/// their beginning.
Result<std::string> content_key(const IsqContent& content);

/// The same of one file.
Result<std::string> file_identity(const std::filesystem::path& path);

/// What is to be quantized. `arrivals` (null: all of it is there) must outlive the call.
struct IsqSource {
  const WeightSource* weights = nullptr;
  Arrivals* arrivals = nullptr;
};

struct IsqResult {
  std::unique_ptr<WeightSource> source;
  bool from_cache = false;
  double encode_seconds = 0, total_seconds = 0;  // as QuantizeReport's; 0 from the cache
};

/// The model in another type, from the cache where it was made before; else `open` is asked for it. The
/// cache's key is `content` (content_key), the type and the encoders' version. A result appears whole or not
/// at all, and two processes make it once, whatever `open` and the arrivals take. Threads of low priority:
/// streams of other models go on.
Result<IsqResult> quantize_in_situ(const std::function<Result<IsqSource>()>& open, const std::string& content,
                                   const IsqOptions& options, const std::stop_token& stop = {});

/// How a checkpoint is quantized: by quantize_in_situ, and where the result is kept in memory.
QuantizeOptions isq_quantize_options(const IsqOptions& options, const std::stop_token& stop);

/// Whether a source is one that ISQ is for: a checkpoint in full precision.
bool is_full_precision(const WeightSource& source);

/// One result in the cache.
struct IsqEntry {
  std::filesystem::path path;
  std::string id, type;  // as given when it was made
  uint64_t bytes = 0;
  int64_t last_used = 0;  // seconds since 1970
};
/// Most recently used first. Files that are no results are left out.
std::vector<IsqEntry> list_isq_cache(const std::filesystem::path& cache);

/// Removes all results of a model, by its reference as it was given; bytes freed.
uint64_t remove_from_isq_cache(const std::filesystem::path& cache, std::string_view id);

}  // namespace quern
