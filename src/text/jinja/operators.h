// Python's operators on values.
#pragma once

#include <optional>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace quern::jinja {

/// Integers that leave 64 bits are an error. `string + number` joins them, as @huggingface/jinja does;
/// `string + dict` joins the string and the dict's JSON.
Value math(Heap& heap, MathOperator op, const Value& a, const Value& b);
Value negate(const Value& value);

/// value[start:stop:step] of a list or string.
Value slice(Heap& heap, const Value& value, std::optional<int64_t> start, std::optional<int64_t> stop,
            int64_t step);

}  // namespace quern::jinja
