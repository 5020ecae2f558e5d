#include "backend/cpu/activations.h"

namespace quern::cpu {
namespace {

template <class T>
void grow(std::vector<T>& v, size_t size) {
  if (v.size() < size) v.resize(size);
}

}  // namespace

ActivationNeed activation_need(const PackedLayout& layout, const Kernels& kernels) {
  const int bias = layout.bits == 8 ? kernels.code_bias8 : 0;
  return {layout.groups, bias - layout.zero, layout.has_min};
}

void append_widths(int columns, int max_panel, std::vector<int>& widths) {
  for (int width = max_panel; width > 0; width /= 2)
    for (; columns >= width; columns -= width) widths.push_back(width);
}

void Activations::quantize(const Kernels& kernels, ThreadPool& pool, Tensor in, const int32_t* source,
                           std::span<const int> widths, std::span<const ActivationNeed> needs) {
  cols_ = in.cols;
  places_.clear();
  int columns = 0;
  for (const int width : widths) {
    places_.push_back({columns, width});
    columns += width;
  }
  columns_ = static_cast<size_t>(columns);
  panel_count_ = places_.size();
  const size_t units = static_cast<size_t>(cols_ / kUnit);
  grow(codes_, columns_ * static_cast<size_t>(cols_));
  grow(scale_, columns_ * units);
  grow(sums_, columns_ * units * 2);
  grow(start_, columns_ * units * 2 * needs.size());
  grow(scaled_sums_, columns_ * units * 2 * needs.size());
  panels_.resize(panel_count_ * needs.size());
  for (size_t n = 0; n < needs.size(); ++n) {
    const size_t base = n * columns_ * units * 2;
    for (size_t p = 0; p < panel_count_; ++p) {
      const size_t first = static_cast<size_t>(places_[p].first) * units;
      const size_t group = base + first * static_cast<size_t>(needs[n].groups);
      panels_[n * panel_count_ + p] = {codes_.data() + first * kUnit, scale_.data() + first,
                                       needs[n].sums ? scaled_sums_.data() + group : nullptr,
                                       start_.data() + group, places_[p].width};
    }
  }
  pool.parallel_for(static_cast<int64_t>(panel_count_), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      quantize_panel(kernels, in, source, places_[static_cast<size_t>(p)], needs);
  });
}

void Activations::quantize_panel(const Kernels& kernels, Tensor in, const int32_t* source, Place place,
                                 std::span<const ActivationNeed> needs) {
  const int64_t width = place.width;
  const int64_t units = cols_ / kUnit;
  const int64_t first = place.first * units;
  float* scale = scale_.data() + first;
  int32_t* sums = sums_.data() + 2 * first;
  for (int c = 0; c < place.width; ++c) {
    const int64_t row = source != nullptr ? source[place.first + c] : place.first + c;
    kernels.quantize_row(in.data + row * in.stride, cols_, codes_.data() + (first + c) * kUnit, width * kUnit,
                         scale + c, sums + c, width);
  }
  for (size_t n = 0; n < needs.size(); ++n) {
    const ActivationNeed& need = needs[n];
    const size_t base = n * columns_ * static_cast<size_t>(units) * 2;
    int32_t* start = start_.data() + base + first * need.groups;
    float* scaled = scaled_sums_.data() + base + first * need.groups;
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t c = 0; c < width; ++c) {
        const int32_t a = sums[2 * u * width + c];
        const int32_t b = sums[(2 * u + 1) * width + c];
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
}

}  // namespace quern::cpu
