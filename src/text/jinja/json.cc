#include "text/jinja/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/jinja/error.h"
#include "text/jinja/strings.h"

namespace quern::jinja {
namespace {

void check_depth(int depth) {
  if (depth > kMaxValueDepth) raise("a value is nested deeper than {} levels", kMaxValueDepth);
}

void add_escaped_unit(Text& out, uint32_t unit) { out.add(fmt::format("\\u{:04x}", unit)); }

void add_json_string(Text& out, std::string_view text, bool ascii) {
  out.add('"');
  for (size_t i = 0; i < text.size();) {
    const Character c = character(text, i);
    static constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kNames = "\"\\nrtbf";
    if (const size_t name = c.code < 0x80 ? kPlain.find(text[i]) : std::string_view::npos;
        name != std::string_view::npos) {
      out.add('\\');
      out.add(kNames[name]);
    } else if ((c.code >= 0 && c.code < 0x20) || (ascii && c.code >= 0x80 && c.code < 0x10000)) {
      add_escaped_unit(out, static_cast<uint32_t>(c.code));
    } else if (ascii && c.code >= 0x10000) {
      const auto high = static_cast<uint32_t>(c.code) - 0x10000;
      add_escaped_unit(out, 0xD800 + (high >> 10));
      add_escaped_unit(out, 0xDC00 + (high & 0x3FF));
    } else {
      out.add(text.substr(i, c.next - i));
    }
    i = c.next;
  }
  out.add('"');
}

class JsonWriter {
 public:
  JsonWriter(Heap& heap, Text& out, const JsonStyle& style) : heap_(heap), out_(out), style_(style) {}

  void add(const Value& value, int depth) {
    check_depth(depth);
    heap_.step();
    if (const auto* text = as<std::string_view>(value)) {
      add_json_string(out_, *text, style_.ensure_ascii);
    } else if (const auto* list = as<List*>(value)) {
      add_list(**list, depth);
    } else if (const auto* dict = as<Dict*>(value)) {
      add_dict(**dict, depth);
    } else if (const auto* names = as<Namespace*>(value)) {
      add_dict((*names)->attributes, depth);
    } else if (as<Function*>(value) != nullptr || as<Loop*>(value) != nullptr) {
      raise("a '{}' cannot be written as JSON", type_name(value));
    } else {
      out_.add(scalar(value));
    }
  }

 private:
  std::string scalar(const Value& value) {
    if (const bool* b = as<bool>(value)) return *b ? "true" : "false";
    if (const int64_t* i = as<int64_t>(value)) return std::to_string(*i);
    if (const uint64_t* i = as<uint64_t>(value)) return std::to_string(*i);
    if (const double* d = as<double>(value)) {
      std::string text = float_text(*d);
      if (text == "nan") return "NaN";
      if (text == "inf") return "Infinity";
      if (text == "-inf") return "-Infinity";
      return text;
    }
    return "null";
  }

  void add_line(int depth) {
    if (!style_.indent) return;
    out_.add('\n');
    for (int i = 0; i < depth; ++i) out_.add(*style_.indent);
  }

  void add_list(const List& list, int depth) {
    if (list.items.empty()) return out_.add("[]");
    out_.add('[');
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      add_line(depth + 1);
      add(list.items[i], depth + 1);
    }
    add_line(depth);
    out_.add(']');
  }

  void add_dict(const Dict& dict, int depth) {
    if (dict.items.empty()) return out_.add("{}");
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) {
        return compare(heap_, a->first, b->first, "<") < 0;
      });
    }
    out_.add('{');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      add_line(depth + 1);
      add_key(items[i]->first);
      out_.add(style_.key_separator);
      add(items[i]->second, depth + 1);
    }
    add_line(depth);
    out_.add('}');
  }

  void add_key(const Value& key) {
    if (const auto* text = as<std::string_view>(key)) {
      add_json_string(out_, *text, style_.ensure_ascii);
    } else if (as<List*>(key) != nullptr) {
      raise("a '{}' cannot be a key in JSON", type_name(key));
    } else {
      add_json_string(out_, scalar(key), style_.ensure_ascii);
    }
  }

  Heap& heap_;
  Text& out_;
  const JsonStyle& style_;
};

}  // namespace

Value from_json(Heap& heap, const nlohmann::ordered_json& json, int depth) {
  check_depth(depth);
  heap.step();
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_integer:
      return json.get<int64_t>();
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(INT64_MAX)) return number;
      return static_cast<int64_t>(number);
    }
    case nlohmann::ordered_json::value_t::number_float:
      return json.get<double>();
    case nlohmann::ordered_json::value_t::string:
      return std::string_view(json.get_ref<const std::string&>());
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(heap, item, depth + 1));
      return heap.list(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict* dict = heap.dict();
      heap.bytes(json.size() * sizeof(dict->items[0]));
      for (auto it = json.begin(); it != json.end(); ++it) {
        dict->items.emplace_back(std::string_view(it.key()), from_json(heap, it.value(), depth + 1));
      }
      return dict;
    }
    default:
      return None{};
  }
}

void add_json(Heap& heap, Text& out, const Value& value, const JsonStyle& style, int depth) {
  JsonWriter(heap, out, style).add(value, depth);
}

}  // namespace quern::jinja
