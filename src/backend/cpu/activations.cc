#include "backend/cpu/activations.h"

namespace quern::cpu {
namespace {

template <class T>
void grow(std::vector<T>& v, size_t size) {
  if (v.size() < size) v.resize(size);
}

/// out[slot] = in[order[slot]]
void gather(const float* in, const InputOrder& order, std::vector<float>& out) {
  const std::vector<int32_t>& source = order.source;
  grow(out, source.size());
  for (size_t slot = 0; slot < source.size(); ++slot) out[slot] = source[slot] < 0 ? 0.0f : in[source[slot]];
}

}  // namespace

ActivationNeed activation_need(const PackedLayout& layout, const Kernels& kernels, const InputOrder* order) {
  const int bias = layout.bits == 8 ? kernels.code_bias8 : 0;
  return {layout.groups, bias - layout.zero, layout.has_min, order};
}

void append_widths(int columns, int max_panel, std::vector<int>& widths) {
  for (int width = max_panel; width > 0; width /= 2)
    for (; columns >= width; columns -= width) widths.push_back(width);
}

void Activations::lay_out(int64_t cols, std::span<const ActivationNeed> needs) {
  codes_count_ = 0;
  grow(sums_, needs.size());
  for (size_t n = 0; n < needs.size(); ++n) {
    size_t found = 0;
    while (found < codes_count_ && codes_[found].order != needs[n].order) ++found;
    sums_[n].codes = found;
    if (found < codes_count_) continue;
    grow(codes_, ++codes_count_);
    codes_[found].order = needs[n].order;
    codes_[found].cols =
        needs[n].order == nullptr ? cols : static_cast<int64_t>(needs[n].order->source.size());
  }
  for (size_t i = 0; i < codes_count_; ++i) {
    const auto size = static_cast<size_t>(codes_[i].cols);
    grow(codes_[i].codes, columns_ * size);
    grow(codes_[i].scale, columns_ * (size / kUnit));
    grow(codes_[i].sums, columns_ * (size / kUnit) * 2);
  }
  panels_.resize(panel_count_ * needs.size());
  for (size_t n = 0; n < needs.size(); ++n) {
    const Codes& codes = codes_[sums_[n].codes];
    const auto units = static_cast<size_t>(codes.cols / kUnit);
    const auto groups = static_cast<size_t>(needs[n].groups);
    grow(sums_[n].start, columns_ * units * groups);
    if (needs[n].sums) grow(sums_[n].scaled, columns_ * units * groups);
    for (size_t p = 0; p < panel_count_; ++p) {
      const size_t first = static_cast<size_t>(places_[p].first) * units;
      panels_[n * panel_count_ + p] = {codes.codes.data() + first * kUnit, codes.scale.data() + first,
                                       needs[n].sums ? sums_[n].scaled.data() + first * groups : nullptr,
                                       sums_[n].start.data() + first * groups, places_[p].width};
    }
  }
}

void Activations::quantize(const Kernels& kernels, ThreadPool& pool, Tensor in, const int32_t* source,
                           std::span<const int> widths, std::span<const ActivationNeed> needs) {
  places_.clear();
  int columns = 0;
  for (const int width : widths) {
    places_.push_back({columns, width});
    columns += width;
  }
  columns_ = static_cast<size_t>(columns);
  panel_count_ = places_.size();
  lay_out(in.cols, needs);
  grow(rows_, static_cast<size_t>(pool.size()));
  // Here, where running out of memory is one failed step, and not on the pool's threads.
  for (size_t i = 0; i < codes_count_; ++i) {
    if (codes_[i].order == nullptr) continue;
    for (std::vector<float>& row : rows_) grow(row, codes_[i].order->source.size());
  }
  pool.for_parts(static_cast<int64_t>(panel_count_), [&](int thread, int64_t p) {
    const Place place = places_[static_cast<size_t>(p)];
    for (size_t i = 0; i < codes_count_; ++i)
      quantize_panel(kernels, in, source, place, codes_[i], rows_[static_cast<size_t>(thread)]);
    for (size_t n = 0; n < needs.size(); ++n) sum_panel(place, needs[n], sums_[n]);
  });
}

void Activations::quantize_panel(const Kernels& kernels, Tensor in, const int32_t* source, Place place,
                                 Codes& codes, std::vector<float>& row) {
  const int64_t width = place.width, first = place.first * (codes.cols / kUnit);
  for (int c = 0; c < place.width; ++c) {
    const int64_t from = source != nullptr ? source[place.first + c] : place.first + c;
    const float* x = in.data + from * in.stride;
    if (codes.order != nullptr) {
      gather(x, *codes.order, row);
      x = row.data();
    }
    kernels.quantize_row(x, codes.cols, codes.codes.data() + (first + c) * kUnit, width * kUnit,
                         codes.scale.data() + first + c, codes.sums.data() + 2 * first + c, width);
  }
}

void Activations::sum_panel(Place place, const ActivationNeed& need, Sums& sums) {
  const Codes& codes = codes_[sums.codes];
  const int64_t width = place.width, units = codes.cols / kUnit, first = place.first * units;
  const float* scale = codes.scale.data() + first;
  const int32_t* sum = codes.sums.data() + 2 * first;
  int32_t* start = sums.start.data() + first * need.groups;
  float* scaled = sums.scaled.data() + (need.sums ? first * need.groups : 0);
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t c = 0; c < width; ++c) {
      const int32_t a = sum[2 * u * width + c];
      const int32_t b = sum[(2 * u + 1) * width + c];
      const float dx = scale[u * width + c];
      if (need.groups == 1) {
        start[u * width + c] = need.coefficient * (a + b);
        if (need.sums) scaled[u * width + c] = dx * static_cast<float>(a + b);
      } else {
        start[2 * u * width + c] = need.coefficient * a;
        start[(2 * u + 1) * width + c] = need.coefficient * b;
        if (need.sums) {
          scaled[2 * u * width + c] = dx * static_cast<float>(a);
          scaled[(2 * u + 1) * width + c] = dx * static_cast<float>(b);
        }
      }
    }
  }
}

}  // namespace quern::cpu
