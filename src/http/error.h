// What a client is told when something cannot be done, in the shape that its API uses.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "core/result.h"

namespace quern {

enum class ApiErrorKind {
  bad_request,
  context_length,  // the prompt is longer than the model's context
  unauthorized,
  not_found,
  unknown_model,
  method_not_allowed,
  timeout,
  too_large,
  media_type,
  header_too_large,
  internal,
  model_load,    // the model could not be loaded
  model_coming,  // the model is on its way: the connection waits and asks again; sent when that takes too
                 // long
  unavailable,   // not now: loading, queue full, stopping
  version,
};

struct ApiError {
  ApiErrorKind kind = ApiErrorKind::internal;
  std::string message;
  std::string param;    // the field at fault; may be empty
  int retry_after = 0;  // seconds; 0: no Retry-After header
};

/// The two shapes: {"error": message, "code": "BAD_REQUEST"} and {"error": {message, type, param, code}}.
enum class ErrorStyle { native, openai };

int http_status(ApiErrorKind kind);
/// The JSON body.
std::string error_body(const ApiError& error, ErrorStyle style);
/// What an engine, a tokenizer or a template says, as an answer.
ApiError to_api_error(const Error& error);

template <class T>
using Parsed = tl::expected<T, ApiError>;

[[nodiscard]] inline tl::unexpected<ApiError> fail(ApiError error) {
  return tl::unexpected<ApiError>(std::move(error));
}
/// A 400 about a field: "temperature: must be …".
[[nodiscard]] tl::unexpected<ApiError> bad_field(std::string_view field, std::string_view what);

}  // namespace quern
