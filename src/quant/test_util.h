// What the tests of the formats share.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/half.h"
#include "quant/quant.h"

namespace quern {

inline std::vector<float> encode_decode(const QuantInfo& info, const std::vector<float>& x,
                                        const float* importance = nullptr) {
  std::vector<std::byte> blocks(x.size() / info.block * info.bytes);
  info.encode(x.data(), blocks.data(), x.size(), importance);
  std::vector<float> out(x.size());
  info.decode(blocks.data(), out.data(), x.size());
  return out;
}

inline double rmse(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

inline std::vector<float> normal_values(size_t n, float scale = 1, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

/// A block given as bytes, decoded.
template <class Block>
std::vector<float> decode_one(DType dtype, const Block& block) {
  const QuantInfo& info = *find_quant(dtype);
  std::vector<float> out(info.block);
  info.decode(reinterpret_cast<const std::byte*>(&block), out.data(), out.size());
  return out;
}

}  // namespace quern
