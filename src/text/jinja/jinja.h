// The Jinja that chat templates are written in, as transformers runs it: Jinja2 with trim_blocks,
// lstrip_blocks, loop controls, `generation` blocks, raise_exception, strftime_now and json.dumps as tojson.
//
// Semantics are Jinja2's, with these exceptions, which follow @huggingface/jinja or harden:
//  - {{ none }} prints nothing, text filters refuse none, tojson writes undefined as null;
//  - "text" + number joins them, "text" + dict adds the dict's JSON;
//  - object.key finds a key before a method of its name, unless it is called;
//  - filters give lists where Jinja2 gives generators; integers have 64 bits;
//  - include, import and extends are not there.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "core/result.h"
#include "text/jinja/interpreter.h"

namespace quern::jinja {

inline constexpr size_t kMaxSource = size_t{1} << 20;

/// A parsed template; immutable.
class Program {
 public:
  /// invalid_argument: "line 3, column 7: expected …".
  static Result<std::unique_ptr<Program>> parse(std::string_view source);

  /// invalid_argument with raise_exception's own text, or with the reason and the place in the template.
  Result<std::string> render(const nlohmann::ordered_json& variables, const Limits& limits = {},
                             const Clock& clock = local_time) const;

  static std::tm local_time();

 private:
  Block block_;
};

}  // namespace quern::jinja
