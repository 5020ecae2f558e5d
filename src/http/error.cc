#include "http/error.h"

#include "http/json.h"

namespace quern {
namespace {

struct Names {
  int status;
  const char* native;
  const char* type;  // OpenAI's
  const char* code;  // OpenAI's; null where it has none
};

Names names(ApiErrorKind kind) {
  const char* const invalid = "invalid_request_error";
  switch (kind) {
    case ApiErrorKind::bad_request:
      return {400, "BAD_REQUEST", invalid, nullptr};
    case ApiErrorKind::context_length:
      return {400, "BAD_REQUEST", invalid, "context_length_exceeded"};
    case ApiErrorKind::unauthorized:
      return {401, "UNAUTHORIZED", invalid, "invalid_api_key"};
    case ApiErrorKind::not_found:
      return {404, "NOT_FOUND", invalid, "not_found"};
    case ApiErrorKind::unknown_model:
      return {404, "UNSUPPORTED_MODEL", invalid, "model_not_found"};
    case ApiErrorKind::method_not_allowed:
      return {405, "METHOD_NOT_ALLOWED", invalid, "method_not_allowed"};
    case ApiErrorKind::timeout:
      return {408, "REQUEST_TIMEOUT", invalid, "request_timeout"};
    case ApiErrorKind::too_large:
      return {413, "PAYLOAD_TOO_LARGE", invalid, "payload_too_large"};
    case ApiErrorKind::media_type:
      return {415, "UNSUPPORTED_MEDIA_TYPE", invalid, "unsupported_media_type"};
    case ApiErrorKind::header_too_large:
      return {431, "HEADER_TOO_LARGE", invalid, "header_too_large"};
    case ApiErrorKind::model_load:
      return {503, "MODEL_LOAD_ERROR", "server_error", "model_load_error"};
    case ApiErrorKind::model_coming:
    case ApiErrorKind::unavailable:
      return {503, "SERVICE_UNAVAILABLE", "server_error", "service_unavailable"};
    case ApiErrorKind::version:
      return {505, "HTTP_VERSION_NOT_SUPPORTED", invalid, nullptr};
    case ApiErrorKind::internal:
      break;
  }
  return {500, "INTERNAL_ERROR", "server_error", "internal_error"};
}

}  // namespace

int http_status(ApiErrorKind kind) { return names(kind).status; }

std::string error_body(const ApiError& error, ErrorStyle style) {
  const Names n = names(error.kind);
  Json body;
  if (style == ErrorStyle::native) {
    body["error"] = error.message;
    body["code"] = n.native;
  } else {
    Json& inner = body["error"];
    inner["message"] = error.message;
    inner["type"] = n.type;
    inner["param"] = error.param.empty() ? Json() : Json(error.param);
    inner["code"] = n.code == nullptr ? Json() : Json(n.code);
  }
  return dump(body);
}

ApiError to_api_error(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::unsupported:
      return {ApiErrorKind::bad_request, error.message};
    case ErrorCode::not_found:
      return {ApiErrorKind::not_found, error.message};
    case ErrorCode::resource_exhausted:
    case ErrorCode::unavailable:
    case ErrorCode::cancelled:
      return {ApiErrorKind::unavailable, error.message, {}, 2};
    default:
      return {ApiErrorKind::internal, error.message};
  }
}

tl::unexpected<ApiError> bad_field(std::string_view field, std::string_view what) {
  return fail(ApiError{ApiErrorKind::bad_request, fmt::format("{}: {}", field, what), std::string(field)});
}

}  // namespace quern
