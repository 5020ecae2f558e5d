// What a GPTQ checkpoint says about itself: `quantization_config` in config.json, or the whole of
// quantize_config.json (AutoGPTQ) or quant_config.json.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "formats/gptq_layout.h"

namespace quern::gptq {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxRules = 4096;
constexpr size_t kMaxPatternBytes = 4096;
constexpr int64_t kMaxGroupSize = 1 << 22;
/// Of matching, for all modules of a checkpoint together: about two seconds.
constexpr int64_t kMaxMatchSteps = 100'000'000;

/// How one module's weights are quantized.
struct Settings {
  int bits = 4;              // 2, 3, 4 or 8
  int64_t group_size = 128;  // −1: all inputs are one group
  bool desc_act = false;     // only a hint: g_idx decides
  bool sym = true;           // a hint likewise: qzeros decide
  bool operator==(const Settings&) const = default;
};

/// "GPTQ 4-bit g128"; without groups "GPTQ 4-bit".
std::string quantization_name(int bits, int64_t group_size);

/// One entry of `dynamic`: modules whose name the pattern matches from its beginning.
class Rule {
 public:
  /// `pattern` as the file has it, with "-:" or "+:" in front or neither. The error says what is wrong with
  /// it.
  static Result<Rule> create(std::string_view pattern);
  /// Takes what it does from `steps`, and fails when they are used up.
  Result<bool> matches(std::string_view module, int64_t& steps) const;

  std::string pattern;
  bool quantized = true;  // false: "-:", left in full precision
  std::optional<int> bits;
  std::optional<int64_t> group_size;
  std::optional<bool> desc_act, sym;

 private:
  std::shared_ptr<const void> code_;  // the compiled pattern
};

struct Config {
  Settings base;
  ZeroFormat zeros = ZeroFormat::v1;
  bool lm_head = false;  // the head is quantized too (whether `lm_head.qweight` exists decides)
  std::vector<Rule> dynamic;
  std::string where;  // "…/config.json: quantization_config", for messages

  /// The settings of a module ("model.layers.0.mlp.up_proj"): those of the first rule that matches, else the
  /// base. Empty: left in full precision. `steps` is what is left of kMaxMatchSteps.
  Result<std::optional<Settings>> settings_of(std::string_view module, int64_t& steps) const;
};

enum class Place : uint8_t {
  nested,  // config.json: below "quantization_config"
  whole,   // a file of its own
};

/// Reads it; `name` is for messages. Empty when a config.json has no quantization_config. Refuses, by key and
/// value, what is not supported: other methods, bits, `checkpoint_format` (gptq_p, marlin, …) and pack_dtype.
Result<std::optional<Config>> read_config(std::string_view json, const std::string& name, Place place);

}  // namespace quern::gptq
