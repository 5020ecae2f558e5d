#include "quantize/gptq_grid.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

#include "core/half.h"
#include "formats/gptq_layout.h"
#include "formats/printable.h"

namespace quern {
namespace {

constexpr std::string_view kPrefix = "gptq-";
constexpr float kLargestHalf = 65504;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

/// Takes a number from the front.
std::optional<int64_t> take_number(std::string_view& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 1 || text.front() == '0') return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

GptqGrid grid_of(float scale, int zero) {
  GptqGrid grid;
  grid.scale_f16 = f32_to_f16(std::clamp(scale, -kLargestHalf, kLargestHalf));
  grid.scale = f16_to_f32(grid.scale_f16);
  // Of a scale that is 0 in f16 nothing comes but 0; of a denormal one the inverse could be infinite.
  grid.inverse = grid.scale != 0 ? 1 / grid.scale : 0;
  grid.zero = zero;
  return grid;
}

/// Tries grids and keeps the best.
class Search {
 public:
  Search(int largest, std::span<const float> weights, std::span<const float> importance)
      : largest_(largest), weights_(weights), importance_(importance) {}

  /// The codes that this scale gives, then the best scale for them: with s = Σ h·w·c / Σ h·c² the error is
  /// Σ h·w² − (Σ h·w·c)² / Σ h·c², c = code − zero.
  void add(float scale, int zero) {
    const float inverse = 1 / scale;
    if (!std::isfinite(inverse)) return;
    const float low = static_cast<float>(-zero), high = static_cast<float>(largest_ - zero);
    double with_weights = 0, squares = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const float steps = std::clamp(weights_[i] * inverse, low, high);
      const auto c = static_cast<float>(static_cast<int>(steps + (steps < 0 ? -0.5f : 0.5f)));
      const float hc = importance_[i] * c;
      with_weights += hc * weights_[i];
      squares += hc * c;
    }
    if (squares <= 0) return;
    const double gain = with_weights * with_weights / squares;
    if (gain <= gain_) return;
    gain_ = gain;
    best_ = grid_of(static_cast<float>(with_weights / squares), zero);
  }
  GptqGrid best(int otherwise_zero) const { return gain_ > 0 ? best_ : grid_of(0, otherwise_zero); }

 private:
  int largest_;
  std::span<const float> weights_, importance_;
  double gain_ = 0;
  GptqGrid best_;
};

/// The smallest part of the whole range that is worth trying: with few steps, finer ones for the many small
/// weights are worth more than the few large ones.
float least_part(int bits) { return bits == 2 ? 0.3f : bits == 3 ? 0.45f : bits == 4 ? 0.6f : 0.95f; }
int tries(int bits) { return bits == 8 ? 6 : 20; }

}  // namespace

bool is_gptq_type(std::string_view type) { return lower(type).starts_with("gptq"); }

Result<GptqFormat> parse_gptq_type(std::string_view type) {
  const auto wrong = [&] {
    return fail(ErrorCode::invalid_argument,
                "quantize: {} is no type: GPTQ's are gptq-<2, 3, 4 or 8>bit-<inputs of a group>g, as "
                "gptq-4bit-128g, or gptq-4bit-channel for one group each output",
                printable(std::string(type)));
  };
  const std::string text = lower(type);
  std::string_view rest = text;
  if (!rest.starts_with(kPrefix)) return wrong();
  rest.remove_prefix(kPrefix.size());
  GptqFormat format;
  const auto bits = rest.empty() ? std::nullopt : take_number(rest);
  if (!bits || *bits > 8 || !gptq::known_bits(static_cast<int>(*bits)) || !rest.starts_with("bit-"))
    return wrong();
  format.bits = static_cast<int>(*bits);
  rest.remove_prefix(4);
  if (rest == "channel") {
    format.group = -1;
    return format;
  }
  const auto group = rest.empty() ? std::nullopt : take_number(rest);
  if (!group || rest != "g") return wrong();
  format.group = *group;
  return format;
}

GptqGrid choose_grid(const GptqFormat& format, std::span<const float> weights,
                     std::span<const float> importance) {
  const int largest = format.largest_code(), middle = 1 << (format.bits - 1);
  const auto [low_it, high_it] = std::ranges::minmax_element(weights);
  const float low = std::min(*low_it, 0.0f), high = std::max(*high_it, 0.0f);
  const int count = tries(format.bits);
  const float part = least_part(format.bits);
  Search search(largest, weights, importance);
  for (int i = 0; i <= count; ++i) {
    const float share = 1 - (1 - part) * static_cast<float>(i) / static_cast<float>(count);
    if (format.symmetric) {
      // There is one code more below the zero point than above it: a negative scale turns that around.
      const float scale = share * std::max(high, -low) / static_cast<float>(middle - 1);
      search.add(scale, middle);
      search.add(-scale, middle);
      continue;
    }
    const float scale = share * (high - low) / static_cast<float>(largest);
    if (scale <= 0) break;
    const float zero = -share * low / scale;
    for (const float z : {std::floor(zero), std::ceil(zero)})
      search.add(scale, std::clamp(static_cast<int>(z), 1, largest));
  }
  return search.best(middle);
}

}  // namespace quern
