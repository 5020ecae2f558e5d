// Methods that filters share.
#pragma once

#include <string_view>

#include "text/jinja/arguments.h"
#include "text/jinja/value.h"

namespace quern::jinja {

/// str.replace(old, new, count).
Value replace_method(Interpreter& interpreter, const Value& self, Arguments& arguments);

/// What `strip` (of strings.h) leaves of `text`, by the argument "chars".
using Strip = std::string_view (*)(std::string_view text, std::optional<std::string_view> set);
std::string_view strip_method(Heap& heap, std::string_view text, Arguments& arguments, Strip strip);

/// `text` padded with `fill` to `width` characters; side < 0: on the right, > 0: on the left, 0: on both.
Value pad_text(Heap& heap, std::string_view text, int64_t width, std::string_view fill, int side);

}  // namespace quern::jinja
