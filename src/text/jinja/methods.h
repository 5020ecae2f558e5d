// Methods that filters share.
#pragma once

#include <string_view>

#include "text/jinja/arguments.h"
#include "text/jinja/value.h"

namespace quern::jinja {

/// str.replace(old, new, count).
Value replace_method(Interpreter& interpreter, const Value& self, Arguments& arguments);

/// `text` padded with `fill` to `width` characters; side < 0: on the right, > 0: on the left, 0: on both.
Value pad_text(Heap& heap, std::string_view text, int64_t width, std::string_view fill, int side);

}  // namespace quern::jinja
