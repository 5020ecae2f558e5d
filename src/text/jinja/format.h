// Python's two ways to format strings, as far as templates go.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/arguments.h"
#include "text/jinja/value.h"

namespace quern::jinja {

/// "%s has %5.2f" % values: a tuple, a dict for %(name)s, or one value.
std::string percent_format(Heap& heap, std::string_view format, const Value& values);

/// "{} {0} {name:>8.2f}".format(…); fields may go on with .attribute and [index].
std::string brace_format(Interpreter& interpreter, std::string_view format, Arguments& arguments);

}  // namespace quern::jinja
