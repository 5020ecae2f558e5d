// In-situ quantization: a full-precision model quantized while it loads, once; the result is kept and opened
// by later starts as any GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "formats/weight_source.h"

namespace quern {

struct IsqOptions {
  DType type = DType::Q4_K;
  std::filesystem::path cache;  // folder for results; empty: the result is kept in memory alone
  std::string id;               // the model's reference: names the result for people
  int threads = 0;              // 0: physical cores
  /// Bytes of the source that are done; false cancels.
  std::function<bool(uint64_t done, uint64_t total)> progress;
  /// Called once when another process quantizes the same, before waiting for it.
  std::function<void()> waiting;
};

struct IsqResult {
  std::unique_ptr<WeightSource> source;
  bool from_cache = false;
  double encode_seconds = 0, total_seconds = 0;  // as QuantizeReport's; 0 from the cache
};

/// The folder's model (`source`, opened from it) in another type. The cache's key is the content of the
/// folder's files, the type and the encoders' version. A result appears whole or not at all, and two
/// processes make it once. Threads of low priority: streams of other models go on.
Result<IsqResult> quantize_in_situ(const WeightSource& source, const std::filesystem::path& folder,
                                   const IsqOptions& options, const std::stop_token& stop = {});

/// Whether a source is one that ISQ is for: a checkpoint in full precision.
bool is_full_precision(const WeightSource& source);

/// A name for what the files of a checkpoint folder hold, 32 hexadecimal digits. Files that lie in the hub's
/// cache are known by their hashes; of others, small ones are read, and large ones are known by their size,
/// their time of change and their beginning.
Result<std::string> content_key(const std::filesystem::path& folder);

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
