// The int8 form of a matmul's input (packed.h, kernels.h), made once and shared by all weights that take it.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/grouped.h"
#include "backend/cpu/kernels.h"
#include "core/thread_pool.h"

namespace quern::cpu {

/// What a weight's layout wants beside codes and scales. Weights with equal needs share it.
struct ActivationNeed {
  int groups = 1;
  int coefficient = 0;  // of the sums in Panel::start
  bool sums = false;    // Panel::scaled_sum
  /// The order in which it takes the input's columns; null: as they are. Weights that take them in the same
  /// order share the codes.
  const InputOrder* order = nullptr;
  bool operator==(const ActivationNeed&) const = default;
};

/// `order` as the weight has it; see ActivationNeed.
ActivationNeed activation_need(const PackedLayout& layout, const Kernels& kernels,
                               const InputOrder* order = nullptr);

class Activations {
 public:
  /// Quantizes input rows source[0, columns), or [0, columns) when `source` is null. `widths` are the columns
  /// of each panel: 1, 2, 4, … max_panel; they add up to `columns`.
  void quantize(const Kernels& kernels, ThreadPool& pool, Tensor in, const int32_t* source,
                std::span<const int> widths, std::span<const ActivationNeed> needs);

  /// The panels as a weight with need number `need` reads them.
  std::span<const Panel> panels(size_t need) const {
    return std::span(panels_).subspan(need * panel_count_, panel_count_);
  }

 private:
  struct Place {
    int first;
    int width;
  };
  /// The input's columns in one order, quantized.
  struct Codes {
    const InputOrder* order = nullptr;
    int64_t cols = 0;  // with the empty slots
    // All grow-only, and bounded by the column chunk of a matmul.
    std::vector<int8_t> codes;
    std::vector<float> scale;
    std::vector<int32_t> sums;
  };
  /// What one need adds to its Codes.
  struct Sums {
    size_t codes = 0;  // number of them
    std::vector<int32_t> start;
    std::vector<float> scaled;
  };
  /// Finds what codes the needs have in common, and makes room.
  void lay_out(int64_t cols, std::span<const ActivationNeed> needs);
  void quantize_panel(const Kernels& kernels, Tensor in, const int32_t* source, Place place, Codes& codes,
                      std::vector<float>& row);
  void sum_panel(Place place, const ActivationNeed& need, Sums& sums);

  size_t columns_ = 0;
  size_t panel_count_ = 0;
  std::vector<Place> places_;
  std::vector<Panel> panels_;  // [need][panel]
  std::vector<Codes> codes_;   // the first codes_count_ of them
  size_t codes_count_ = 0;
  std::vector<Sums> sums_;                // [need]
  std::vector<std::vector<float>> rows_;  // per thread: a row in another order
};

/// Splits `columns` into the widest panels first: 8 8 4 1 for 21.
void append_widths(int columns, int max_panel, std::vector<int>& widths);

}  // namespace quern::cpu
