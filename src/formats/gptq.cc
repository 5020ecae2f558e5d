#include "formats/gptq.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/file.h"
#include "formats/printable.h"

namespace quern::gptq {
namespace {

namespace fs = std::filesystem;
using safetensors::ForeignTensor;

/// The tensors of one module; null where there is none.
struct Parts {
  std::string module;
  const ForeignTensor* qweight = nullptr;
  const ForeignTensor* qzeros = nullptr;
  const ForeignTensor* g_idx = nullptr;
  const RawTensor* scales = nullptr;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// "a.b.qweight" → "a.b", when `name` ends so.
std::optional<std::string_view> module_of(std::string_view name, std::string_view tensor) {
  if (!name.ends_with(tensor)) return std::nullopt;
  name.remove_suffix(tensor.size());
  if (!name.ends_with('.')) return std::nullopt;
  name.remove_suffix(1);
  return name;
}

/// Groups the tensors by module, in the order of the qweights.
class Gathering {
 public:
  Result<std::vector<Parts>> gather(const safetensors::Checkpoint& files, const std::string& name) {
    for (const ForeignTensor& tensor : files.foreign) {
      const auto module = module_of(tensor.name, "qweight");
      if (!module) continue;
      index_.emplace(*module, parts_.size());
      parts_.push_back({std::string(*module), &tensor});
    }
    for (const ForeignTensor& tensor : files.foreign) {
      for (const auto& [suffix, part] :
           {std::pair("qzeros", &Parts::qzeros), std::pair("g_idx", &Parts::g_idx)}) {
        const auto module = module_of(tensor.name, suffix);
        if (!module) continue;
        Parts* parts = find(*module);
        if (parts == nullptr)
          return fail(ErrorCode::corrupt, "{}: tensor {} has no qweight beside it", name,
                      printable(tensor.name));
        parts->*part = &tensor;
      }
    }
    for (const RawTensor& tensor : files.tensors) {
      const auto module = module_of(tensor.name, "scales");
      if (Parts* parts = module ? find(*module) : nullptr) parts->scales = &tensor;
      const auto plain = module_of(tensor.name, "weight");
      if (plain && find(*plain) != nullptr)
        return fail(ErrorCode::corrupt, "{}: module {} has both a weight and a qweight", name,
                    printable(*plain));
    }
    return std::move(parts_);
  }

 private:
  Parts* find(std::string_view module) {
    const auto it = index_.find(module);
    return it == index_.end() ? nullptr : &parts_[it->second];
  }

  std::vector<Parts> parts_;
  std::unordered_map<std::string_view, size_t> index_;  // names lie in the files' tensors
};

/// Makes the matrix of one module, or says what is wrong with it.
class Building {
 public:
  Building(const Parts& parts, const Settings& settings, ZeroFormat zeros, const std::string& name)
      : parts_(parts), settings_(settings), zeros_(zeros), name_(name) {}

  Result<GroupedMatrix> build() {
    QUERN_TRY_VOID(read_shape());
    QUERN_TRY_VOID(check_parts());
    QUERN_TRY_VOID(read_groups());
    GroupedMatrix& m = matrix_;
    m.label = quantization_name(settings_.bits, settings_.group_size);
    m.codes = parts_.qweight->data.data();
    m.scales = parts_.scales->data.data();
    m.scale_type = parts_.scales->dtype;
    m.zeros = parts_.qzeros->data.data();
    m.side_bytes = parts_.scales->data.size() + parts_.qzeros->data.size() +
                   (parts_.g_idx == nullptr ? 0 : parts_.g_idx->data.size());
    read_zeros();
    return std::move(m);
  }
  /// The zero points are those of symmetric quantization in the other format.
  bool other_format() const { return other_format_; }

 private:
  template <class... Args>
  tl::unexpected<Error> wrong(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) const {
    return fail(code, "{}: module {}: {}", name_, printable(parts_.module),
                fmt::format(format, std::forward<Args>(args)...));
  }

  Result<> check_words(const ForeignTensor& tensor, const char* what, size_t dimensions) const {
    if (tensor.dtype != "I32")
      return wrong(ErrorCode::unsupported, "{} has type {}; only I32 is supported", what,
                   printable(tensor.dtype));
    if (tensor.shape.size() != dimensions)
      return wrong(ErrorCode::corrupt, "{} has shape {}, must have {} dimensions", what,
                   shape_text(tensor.shape), dimensions);
    return {};
  }

  Result<> read_shape() {
    const int bits = settings_.bits;
    QUERN_TRY_VOID(check_words(*parts_.qweight, "qweight", 2));
    const int64_t words = parts_.qweight->shape[0], rows = parts_.qweight->shape[1];
    const int64_t run = bits == 3 ? 3 : 1;  // words
    if (words < 1 || rows < 1 || words > INT32_MAX / 32 || rows > INT32_MAX || words % run != 0 ||
        !stream_words(rows, bits))
      return wrong(ErrorCode::corrupt, "qweight has shape {}, which is none of {}-bit words",
                   shape_text(parts_.qweight->shape), bits);
    matrix_.bits = bits;
    matrix_.rows = rows;
    matrix_.cols = words / run * values_per_run(bits);
    const int64_t size = settings_.group_size < 0 ? matrix_.cols : settings_.group_size;
    if (matrix_.cols % size != 0)
      return wrong(ErrorCode::unsupported, "group_size is {}, which does not divide its {} inputs", size,
                   matrix_.cols);
    matrix_.group_size = size;
    matrix_.groups = matrix_.cols / size;
    return {};
  }

  Result<> check_shape(const char* what, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& expected) const {
    if (shape == expected) return {};
    return wrong(
        ErrorCode::corrupt,
        "{} has shape {}, must have {}: by qweight, bits and group_size it is {} x {} with groups of {}",
        what, shape_text(shape), shape_text(expected), matrix_.rows, matrix_.cols, matrix_.group_size);
  }

  Result<> check_parts() const {
    const GroupedMatrix& m = matrix_;
    if (parts_.scales == nullptr || parts_.qzeros == nullptr)
      return wrong(ErrorCode::not_found, "tensor {} is missing (or of a type that it cannot have)",
                   parts_.scales == nullptr ? "scales" : "qzeros");
    QUERN_TRY_VOID(check_words(*parts_.qzeros, "qzeros", 2));
    QUERN_TRY_VOID(check_shape("scales", parts_.scales->shape, {m.groups, m.rows}));
    QUERN_TRY_VOID(check_shape("qzeros", parts_.qzeros->shape, {m.groups, m.zero_words()}));
    if (parts_.g_idx == nullptr) return {};
    QUERN_TRY_VOID(check_words(*parts_.g_idx, "g_idx", 1));
    return check_shape("g_idx", parts_.g_idx->shape, {m.cols});
  }

  /// Leaves group_of empty where inputs are in order. A g_idx of zeros alone is what writers leave that have
  /// none.
  Result<> read_groups() {
    if (parts_.g_idx == nullptr || matrix_.groups == 1) return check_range();
    std::vector<int32_t> groups(static_cast<size_t>(matrix_.cols));
    std::memcpy(groups.data(), parts_.g_idx->data.data(), groups.size() * sizeof(int32_t));
    bool in_order = true, zeros = true;
    for (size_t k = 0; k < groups.size(); ++k) {
      int64_t g = groups[k];
      if (g < 0) g += matrix_.groups;
      if (g < 0 || g >= matrix_.groups)
        return wrong(ErrorCode::corrupt, "g_idx[{}] is {}, but it has {} groups", k, groups[k],
                     matrix_.groups);
      zeros &= groups[k] == 0;
      in_order &= g == static_cast<int64_t>(k) / matrix_.group_size;
      groups[k] = static_cast<int32_t>(g);
    }
    if (!in_order && !zeros) matrix_.group_of = std::move(groups);
    return {};
  }
  /// Of one group.
  Result<> check_range() const {
    if (parts_.g_idx == nullptr) return {};
    for (int64_t k = 0; k < matrix_.cols; ++k) {
      int32_t g;
      std::memcpy(&g, parts_.g_idx->data.data() + 4 * k, sizeof g);
      if (g != 0 && g != -1) return wrong(ErrorCode::corrupt, "g_idx[{}] is {}, but it has 1 group", k, g);
    }
    return {};
  }

  void read_zeros() {
    GroupedMatrix& m = matrix_;
    if (zeros_ == ZeroFormat::v1) m.zero_step = m.bits == 3 ? 1 : ones_of_fields(m.bits);
    const auto format = symmetric_format(m.bits, parts_.qzeros->data, m.zero_words());
    if (!format) return;
    other_format_ = settings_.sym && *format != zeros_;
    // Not said to be symmetric, they are as they are labelled: all one more, or one less.
    const int apart = settings_.sym || *format == zeros_ ? 0 : *format == ZeroFormat::v2 ? 1 : -1;
    m.zero = symmetric_zero(m.bits) + apart;
  }

  const Parts& parts_;
  const Settings& settings_;
  ZeroFormat zeros_;
  const std::string& name_;
  GroupedMatrix matrix_;
  bool other_format_ = false;
};

std::string_view format_name(ZeroFormat format) { return format == ZeroFormat::v1 ? "gptq" : "gptq_v2"; }

/// What is left of the checkpoint's tensors.
void replace_tensors(safetensors::Checkpoint& files, const std::vector<Parts>& parts,
                     std::vector<RawTensor> made) {
  std::vector<const void*> taken;
  for (const Parts& p : parts)
    for (const void* tensor : {static_cast<const void*>(p.qweight), static_cast<const void*>(p.qzeros),
                               static_cast<const void*>(p.g_idx), static_cast<const void*>(p.scales)})
      taken.push_back(tensor);
  std::ranges::sort(taken);
  const auto is_taken = [&](const auto& tensor) {
    return std::ranges::binary_search(taken, static_cast<const void*>(&tensor));
  };
  // Not by erase_if: that moves tensors about while they are being told apart by their addresses.
  std::vector<RawTensor> tensors;
  for (RawTensor& tensor : files.tensors)
    if (!is_taken(tensor)) tensors.push_back(std::move(tensor));
  std::vector<ForeignTensor> foreign;
  for (ForeignTensor& tensor : files.foreign)
    if (!is_taken(tensor)) foreign.push_back(std::move(tensor));
  std::ranges::move(made, std::back_inserter(tensors));
  files.tensors = std::move(tensors);
  files.foreign = std::move(foreign);
}

}  // namespace

Result<std::optional<Config>> find_config(const fs::path& folder, std::string_view config_json) {
  QUERN_TRY(auto nested, read_config(config_json, (folder / "config.json").string(), Place::nested));
  if (nested) return nested;
  for (const char* file : {"quantize_config.json", "quant_config.json"}) {
    const fs::path path = folder / file;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) continue;
    const auto text = read_small_file(path, kMaxConfigBytes);
    if (!text)
      return fail(ErrorCode::corrupt, "{}: cannot be read, or is larger than {} bytes", path.string(),
                  kMaxConfigBytes);
    return read_config(*text, path.string(), Place::whole);
  }
  return std::nullopt;
}

Result<Modules> take_modules(safetensors::Checkpoint& files, const std::optional<Config>& config,
                             const std::string& name) {
  QUERN_TRY(const std::vector<Parts> all, Gathering().gather(files, name));
  Modules modules;
  if (all.empty()) return modules;
  if (!config)
    return fail(
        ErrorCode::not_found,
        "{}: module {} is quantized (it has a qweight), but nothing says how: quantize_config.json, or "
        "quantization_config in config.json, is missing",
        name, printable(all.front().module));
  std::vector<RawTensor> made;
  size_t mislabelled = 0, excluded = 0;
  int64_t steps = kMaxMatchSteps;
  for (const Parts& parts : all) {
    QUERN_TRY(const auto settings, config->settings_of(parts.module, steps));
    excluded += settings ? 0 : 1;
    const Settings used = settings.value_or(config->base);
    Building building(parts, used, config->zeros, name);
    QUERN_TRY(GroupedMatrix matrix, building.build());
    mislabelled += building.other_format() ? 1 : 0;
    modules.names.push_back(parts.module);
    modules.matrices.push_back(std::make_unique<GroupedMatrix>(std::move(matrix)));
    const GroupedMatrix& m = *modules.matrices.back();
    made.push_back({parts.module + ".weight", DType::Grouped, {m.rows, m.cols}, parts.qweight->data, &m});
  }
  if (mislabelled > 0)
    modules.warnings.push_back(fmt::format(
        "checkpoint_format is {}, but the zero points of {} symmetric modules are those of {}: taken as such",
        format_name(config->zeros), mislabelled,
        format_name(config->zeros == ZeroFormat::v1 ? ZeroFormat::v2 : ZeroFormat::v1)));
  if (excluded > 0)
    modules.warnings.push_back(fmt::format(
        "{} modules are quantized, though `dynamic` says they are not: taken as the other modules are",
        excluded));
  replace_tensors(files, all, std::move(made));
  return modules;
}

}  // namespace quern::gptq
