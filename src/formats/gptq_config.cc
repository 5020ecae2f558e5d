#include "formats/gptq_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <nlohmann/json.hpp>

#include "formats/json_walk.h"
#include "formats/printable.h"

namespace quern::gptq {
namespace {

// Rules count by their order in the file.
using Json = nlohmann::ordered_json;

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

/// An object's keys by type. null counts as absent.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  std::string full(std::string_view key) const { return fmt::format("{}.{}", where_, key); }

  const Json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  Result<std::optional<int64_t>> integer(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits =
        value->is_number_unsigned() ? value->get<uint64_t>() <= INT64_MAX : value->is_number_integer();
    if (!fits) return fail(ErrorCode::corrupt, "{} is {}, must be an integer", full(key), shown(*value));
    return value->get<int64_t>();
  }
  Result<std::optional<bool>> boolean(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean())
      return fail(ErrorCode::corrupt, "{} is {}, must be true or false", full(key), shown(*value));
    return value->get<bool>();
  }
  Result<std::optional<std::string>> text(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string())
      return fail(ErrorCode::corrupt, "{} is {}, must be a text", full(key), shown(*value));
    return value->get<std::string>();
  }

 private:
  const Json& object_;
  std::string where_;
};

Result<std::optional<int>> read_bits(const Fields& fields) {
  QUERN_TRY(const auto bits, fields.integer("bits"));
  if (!bits) return std::nullopt;
  if (*bits < 0 || *bits > 8 || !known_bits(static_cast<int>(*bits)))
    return fail(ErrorCode::unsupported, "{} is {}; supported are 2, 3, 4 and 8", fields.full("bits"), *bits);
  return static_cast<int>(*bits);
}

Result<std::optional<int64_t>> read_group_size(const Fields& fields) {
  QUERN_TRY(const auto size, fields.integer("group_size"));
  if (size && *size != -1 && (*size < 1 || *size > kMaxGroupSize))
    return fail(ErrorCode::unsupported, "{} is {}; it must be -1 or in 1…{}", fields.full("group_size"),
                *size, kMaxGroupSize);
  return size;
}

Result<> check_method(const Fields& fields) {
  QUERN_TRY(const auto method, fields.text("quant_method"));
  // Files of their own had no such key at first; AWQ's, of the same name, have others.
  const bool named = method.has_value();
  const bool other = fields.find("w_bit") != nullptr || fields.find("q_group_size") != nullptr;
  if (named ? *method == "gptq" : fields.find("bits") != nullptr && !other) return {};
  return fail(ErrorCode::unsupported,
              "{} is {}: of quantized checkpoints only gptq is supported: take the checkpoint in full "
              "precision, or a .gguf file",
              fields.full("quant_method"), named ? printable(*method) : "not there");
}

Result<ZeroFormat> read_format(const Fields& fields) {
  std::optional<ZeroFormat> found;
  for (const char* key : {"checkpoint_format", "format"}) {
    QUERN_TRY(const auto format, fields.text(key));
    if (!format) continue;
    if (*format != "gptq" && *format != "gptq_v2")
      return fail(ErrorCode::unsupported, "{} is {}; supported are gptq and gptq_v2", fields.full(key),
                  printable(*format));
    const ZeroFormat zeros = *format == "gptq" ? ZeroFormat::v1 : ZeroFormat::v2;
    if (found && *found != zeros)
      return fail(ErrorCode::corrupt, "{} is {}, but checkpoint_format says otherwise", fields.full(key),
                  printable(*format));
    found = zeros;
  }
  QUERN_TRY(const auto marlin, fields.boolean("is_marlin_format"));
  if (marlin.value_or(false))
    return fail(ErrorCode::unsupported, "{} is true: weights in Marlin's own order are not supported",
                fields.full("is_marlin_format"));
  QUERN_TRY(const auto pack, fields.text("pack_dtype"));
  if (pack && *pack != "int32")
    return fail(ErrorCode::unsupported, "{} is {}; only int32 is supported", fields.full("pack_dtype"),
                printable(*pack));
  return found.value_or(ZeroFormat::v1);
}

Result<> read_rules(const Fields& fields, Config& out) {
  const Json* dynamic = fields.find("dynamic");
  if (dynamic == nullptr) return {};
  const std::string where = fields.full("dynamic");
  if (!dynamic->is_object())
    return fail(ErrorCode::corrupt, "{} is {}, must be an object", where, shown(*dynamic));
  if (dynamic->size() > kMaxRules)
    return fail(ErrorCode::corrupt, "{} has more than {} rules", where, kMaxRules);
  for (const auto& [pattern, overrides] : dynamic->items()) {
    const std::string name = fmt::format("{}.\"{}\"", where, printable(pattern));
    auto rule = Rule::create(pattern);
    if (!rule) return fail(rule.error().code, "{}: {}", name, rule.error().message);
    if (rule->quantized && !overrides.is_null()) {
      if (!overrides.is_object())
        return fail(ErrorCode::corrupt, "{} is {}, must be an object", name, shown(overrides));
      const Fields own(overrides, name);
      QUERN_TRY(rule->bits, read_bits(own));
      QUERN_TRY(rule->group_size, read_group_size(own));
      QUERN_TRY(rule->desc_act, own.boolean("desc_act"));
      QUERN_TRY(rule->sym, own.boolean("sym"));
    }
    out.dynamic.push_back(*std::move(rule));
  }
  return {};
}

Result<Config> read_object(const Json& object, std::string where) {
  const Fields fields(object, where);
  Config out;
  out.where = std::move(where);
  QUERN_TRY_VOID(check_method(fields));
  QUERN_TRY(out.zeros, read_format(fields));
  QUERN_TRY(const auto bits, read_bits(fields));
  QUERN_TRY(const auto group_size, read_group_size(fields));
  if (!bits || !group_size)
    return fail(ErrorCode::corrupt, "{} is missing", fields.full(bits ? "group_size" : "bits"));
  QUERN_TRY(const auto desc_act, fields.boolean("desc_act"));
  QUERN_TRY(const auto sym, fields.boolean("sym"));
  QUERN_TRY(const auto lm_head, fields.boolean("lm_head"));
  out.base = {*bits, *group_size, desc_act.value_or(false), sym.value_or(true)};
  out.lm_head = lm_head.value_or(false);
  QUERN_TRY_VOID(read_rules(fields, out));
  return out;
}

}  // namespace

std::string quantization_name(int bits, int64_t group_size) {
  return group_size > 0 ? fmt::format("GPTQ {}-bit g{}", bits, group_size) : fmt::format("GPTQ {}-bit", bits);
}

Result<Rule> Rule::create(std::string_view pattern) {
  Rule rule;
  rule.pattern = pattern;
  rule.quantized = !pattern.starts_with("-:");
  if (pattern.starts_with("-:") || pattern.starts_with("+:")) pattern.remove_prefix(2);
  if (pattern.size() > kMaxPatternBytes)
    return fail(ErrorCode::corrupt, "a pattern of more than {} bytes", kMaxPatternBytes);
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT,
                                   &error, &at, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR text[128] = {};
    pcre2_get_error_message(error, text, sizeof text);
    return fail(ErrorCode::corrupt, "not a regular expression: at byte {}: {}", at,
                printable(reinterpret_cast<const char*>(text)));
  }
  rule.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return rule;
}

namespace {

/// Called before each part of a pattern that is tried. A part like ".*" goes through the name at once.
int count_step(pcre2_callout_block* at, void* steps) {
  int64_t& left = *static_cast<int64_t*>(steps);
  left -= 1 + static_cast<int64_t>(at->subject_length / 64);
  return left < 0 ? PCRE2_ERROR_CALLOUT : 0;
}

}  // namespace

Result<bool> Rule::matches(std::string_view module, int64_t& steps) const {
  // A pattern from a file may be made to take forever, alone or together with the others.
  constexpr uint32_t max_heap_kib = 1024;
  steps -= 10;  // of setting up
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (context == nullptr || data == nullptr) return fail(ErrorCode::resource_exhausted, "out of memory");
  pcre2_set_match_limit(context.get(), UINT32_MAX);  // steps are counted instead
  pcre2_set_depth_limit(context.get(), UINT32_MAX);
  pcre2_set_callout(context.get(), count_step, &steps);
  pcre2_set_heap_limit(context.get(), max_heap_kib);
  const int found =
      pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(module.data()),
                  module.size(), 0, 0, data.get(), context.get());
  if (found >= 0) return true;
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found == PCRE2_ERROR_CALLOUT)
    return fail(ErrorCode::unsupported,
                "matching takes too long (at the pattern \"{}\"): use fewer or simpler patterns",
                printable(pattern));
  return fail(ErrorCode::unsupported, "the pattern \"{}\" cannot be matched", printable(pattern));
}

Result<std::optional<Settings>> Config::settings_of(std::string_view module, int64_t& steps) const {
  for (const Rule& rule : dynamic) {
    auto matched = rule.matches(module, steps);
    if (!matched) return fail(matched.error().code, "{}.dynamic: {}", where, matched.error().message);
    if (!*matched) continue;
    if (!rule.quantized) return std::nullopt;
    return Settings{rule.bits.value_or(base.bits), rule.group_size.value_or(base.group_size),
                    rule.desc_act.value_or(base.desc_act), rule.sym.value_or(base.sym)};
  }
  return base;
}

Result<std::optional<Config>> read_config(std::string_view text, const std::string& name, Place place) {
  constexpr int max_depth = 64;
  if (text.size() > kMaxConfigBytes)
    return fail(ErrorCode::corrupt, "{}: larger than {} bytes", name, kMaxConfigBytes);
  // First without building it, because only that is bounded in depth.
  JsonWalk walk(max_depth);
  if (!walk.walk(text)) return fail(ErrorCode::corrupt, "{}: {}", name, walk.problem());
  const Json parsed = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return fail(ErrorCode::corrupt, "{}: not a JSON object", name);
  if (place == Place::whole) return read_object(parsed, name + ": config");
  const auto found = parsed.find("quantization_config");
  if (found == parsed.end() || found->is_null()) return std::nullopt;
  if (!found->is_object())
    return fail(ErrorCode::corrupt, "{}: quantization_config is {}, must be an object", name, shown(*found));
  return read_object(*found, name + ": quantization_config");
}

}  // namespace quern::gptq
