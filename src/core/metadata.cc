#include "core/metadata.h"

#include <limits>

namespace quern {
namespace {

std::optional<int64_t> to_integer(const Metadata::Value& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(&value)) {
    if (*u <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return static_cast<int64_t>(*u);
  }
  return std::nullopt;
}

}  // namespace

size_t Metadata::Array::size() const {
  return std::visit([](const auto& v) { return v.size(); }, items);
}

bool Metadata::add(std::string key, Value value) {
  if (!index_.emplace(key, entries_.size()).second) return false;
  entries_.emplace_back(std::move(key), std::move(value));
  return true;
}

const Metadata::Value* Metadata::find(std::string_view key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

std::optional<bool> Metadata::boolean(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* b = std::get_if<bool>(value)) return *b;
  return std::nullopt;
}

std::optional<uint64_t> Metadata::uint(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* u = std::get_if<uint64_t>(value)) return *u;
  if (const auto* i = std::get_if<int64_t>(value)) {
    if (*i >= 0) return static_cast<uint64_t>(*i);
  }
  return std::nullopt;
}

std::optional<int64_t> Metadata::integer(std::string_view key) const {
  const Value* value = find(key);
  return value == nullptr ? std::nullopt : to_integer(*value);
}

std::optional<double> Metadata::number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<double>(value)) return *d;
  if (const auto* u = std::get_if<uint64_t>(value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(value)) return static_cast<double>(*i);
  return std::nullopt;
}

const std::string* Metadata::string(std::string_view key) const {
  const Value* value = find(key);
  return value == nullptr ? nullptr : std::get_if<std::string>(value);
}

const std::vector<std::string>* Metadata::strings(std::string_view key) const {
  const Value* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<Array>(value);
  return array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(&array->items);
}

std::optional<std::vector<double>> Metadata::numbers(std::string_view key) const {
  const Value* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<Array>(value);
  if (array == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<std::vector<double>>(&array->items)) return *d;
  if (const auto* u = std::get_if<std::vector<uint64_t>>(&array->items))
    return std::vector<double>(u->begin(), u->end());
  if (const auto* i = std::get_if<std::vector<int64_t>>(&array->items))
    return std::vector<double>(i->begin(), i->end());
  return std::nullopt;
}

std::optional<std::vector<int64_t>> Metadata::integers(std::string_view key) const {
  const Value* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<Array>(value);
  if (array == nullptr) return std::nullopt;
  if (const auto* i = std::get_if<std::vector<int64_t>>(&array->items)) return *i;
  if (const auto* u = std::get_if<std::vector<uint64_t>>(&array->items)) {
    for (uint64_t x : *u) {
      if (x > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    }
    return std::vector<int64_t>(u->begin(), u->end());
  }
  return std::nullopt;
}

}  // namespace quern
