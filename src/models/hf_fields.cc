#include "models/hf_fields.h"

#include <algorithm>
#include <cmath>

#include "formats/printable.h"

namespace quern {
namespace {

/// A value of a configuration for a message: short, and in one line.
std::string shown(const nlohmann::json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  return printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

}  // namespace

const nlohmann::json* HfFields::find(const char* key) const {
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

Result<std::optional<int64_t>> HfFields::integer(const char* key, int64_t low, int64_t high) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= static_cast<uint64_t>(high) || high < 0
                        : value->is_number_integer();
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high)
    return fail(ErrorCode::corrupt, "{} is {}, must be an integer in {}…{}", full(key), shown(*value), low,
                high);
  return value->get<int64_t>();
}

Result<int64_t> HfFields::require(const char* key, int64_t low, int64_t high) const {
  QUERN_TRY(const auto value, integer(key, low, high));
  if (!value) return fail(ErrorCode::not_found, "{} is missing", full(key));
  return *value;
}

Result<std::optional<double>> HfFields::number(const char* key, double low, double high) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !(value->get<double>() > low && value->get<double>() <= high))
    return fail(ErrorCode::corrupt, "{} is {}, must be a number above {} and at most {}", full(key),
                shown(*value), low, high);
  return value->get<double>();
}

Result<bool> HfFields::boolean(const char* key, bool otherwise) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean())
    return fail(ErrorCode::corrupt, "{} is {}, must be true or false", full(key), shown(*value));
  return value->get<bool>();
}

Result<std::optional<std::string>> HfFields::text(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string())
    return fail(ErrorCode::corrupt, "{} is {}, must be a text", full(key), shown(*value));
  return value->get<std::string>();
}

Result<std::vector<float>> HfFields::positive_numbers(const char* key, size_t count) const {
  std::vector<float> numbers;
  const nlohmann::json* value = find(key);
  if (value == nullptr) return numbers;
  if (!value->is_array() || value->size() != count)
    return fail(ErrorCode::corrupt, "{} must be a list of {} numbers", full(key), count);
  for (const auto& item : *value) {
    const double number = item.is_number() ? item.get<double>() : 0;
    if (!(number > 0 && number < 1e30))
      return fail(ErrorCode::corrupt, "{} holds {}, must hold numbers above 0", full(key), shown(item));
    numbers.push_back(static_cast<float>(number));
  }
  return numbers;
}

Result<std::vector<std::string>> HfFields::texts(const char* key) const {
  std::vector<std::string> texts;
  const nlohmann::json* value = find(key);
  if (value == nullptr) return texts;
  if (!value->is_array() || !std::ranges::all_of(*value, [](const auto& item) { return item.is_string(); }))
    return fail(ErrorCode::corrupt, "{} must be a list of texts", full(key));
  for (const auto& item : *value) texts.push_back(item.get<std::string>());
  return texts;
}

Result<std::optional<HfFields>> HfFields::object(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object())
    return fail(ErrorCode::corrupt, "{} is {}, must be an object", full(key), shown(*value));
  return HfFields(*value, full(key) + ".");
}

bool HfFields::has_objects() const {
  return std::ranges::any_of(*object_, [](const auto& item) { return item.is_object(); });
}

}  // namespace quern
