// From a model in any types to a GGUF file in others.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "models/gguf_tensors.h"
#include "models/quantization_report.h"
#include "quantize/imatrix.h"

namespace quern {

/// Says which tensors of a source may be read: for sources whose data is still on its way.
class Arrivals {
 public:
  virtual ~Arrivals() = default;
  /// Tensors that may be read now and were not named before; waits until there are some. Empty: all were
  /// named. One call at a time.
  virtual Result<std::vector<const RawTensor*>> next() = 0;
  /// The tensor is not read any more. From any thread, once for each tensor that was named.
  virtual Result<> done(const RawTensor& tensor) = 0;
  /// Something failed: nobody wants more, and a call of `next` under way returns. From any thread.
  virtual void stop() = 0;
};

struct QuantizeOptions {
  Recipe recipe;
  const ImportanceMatrix* importance = nullptr;  // must outlive the call
  int threads = 0;                               // 0: physical cores
  bool background = false;                       // threads of low priority
  Metadata extra;                                // wins over the source's metadata
  /// Bytes of the source that are done; false cancels. From any thread, one call at a time.
  std::function<bool(uint64_t done, uint64_t total)> progress;
  Arrivals* arrivals = nullptr;  // null: all of the source is there. Must outlive the call
};

struct QuantizeReport {
  std::vector<QuantizedTensor> tensors;  // in the file's order
  uint64_t source_bytes = 0, bytes = 0;  // of all tensors
  double encode_seconds = 0;             // of one thread's time, were the work shared evenly: without writing
  double total_seconds = 0;              // until all of it is on disk
};

/// Reads the source piece by piece and writes the file as it goes (whole or not at all): memory is a few
/// megabytes a thread, and pages of a mapped source are let go when they are done. Encoding, writing and
/// the disk's own work overlap.
///
/// Fails with corrupt on weights that are not finite and unsupported on those beyond the range of F16 or of a
/// type's F16 scales, naming tensor and row; cancelled; io.
Result<QuantizeReport> quantize(const WeightSource& source, const std::filesystem::path& destination,
                                const QuantizeOptions& options);
/// Into a file that is open already: see GgufWriter::create_in. What write_layout wrote there is taken over.
Result<QuantizeReport> quantize_into(const WeightSource& source, int file, const QuantizeOptions& options);
/// All of the file but the tensors' data: nothing of the source's is read. The report's errors are unknown
/// yet.
Result<> write_layout(const WeightSource& source, int file, const QuantizeOptions& options);

}  // namespace quern
