// Errors as values. Whatever comes from a file, a network or a request fails through Result<T>;
// QUERN_CHECK (check.h) is for bugs alone.
#pragma once

#include <fmt/core.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace quern {

enum class ErrorCode {
  invalid_argument,    // the caller asked for something that cannot be
  not_found,           // a file, model or tensor is not there
  unsupported,         // well-formed, but nothing here can handle it
  corrupt,             // a file or message breaks its own format
  resource_exhausted,  // memory, KV blocks, a full queue
  unavailable,         // not now; may work later
  io,                  // the operating system refused
  cancelled,
  internal,
};

/// One failure. `message` is one line for people: what, why, and what to do where that is known.
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
};

template <class T = void>
using Result = tl::expected<T, Error>;

/// `return fail(ErrorCode::corrupt, "{}: truncated at byte {}", path, offset);`
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

[[nodiscard]] inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}

}  // namespace quern

#define QUERN_CONCAT_(a, b) a##b
#define QUERN_CONCAT(a, b) QUERN_CONCAT_(a, b)

/// `QUERN_TRY(auto file, MappedFile::open(path));` binds the value or returns the error.
#define QUERN_TRY(declaration, expression)                                                                  \
  auto QUERN_CONCAT(try_, __LINE__) = (expression);                                                         \
  if (!QUERN_CONCAT(try_, __LINE__)) return ::quern::fail(std::move(QUERN_CONCAT(try_, __LINE__)).error()); \
  declaration = *std::move(QUERN_CONCAT(try_, __LINE__))

/// `QUERN_TRY_VOID(check_header(file));` returns the error, if there is one.
#define QUERN_TRY_VOID(expression)                                                                        \
  do {                                                                                                    \
    if (auto try_result = (expression); !try_result) return ::quern::fail(std::move(try_result).error()); \
  } while (0)
