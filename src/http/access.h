// Who may ask: API keys and CORS. And what a request is called: its id.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/config.h"
#include "http/message.h"

namespace quern {

/// True when no keys are configured, or the request carries one of them. Takes the same time whichever key is
/// wrong, and wherever.
bool has_key(const Config& config, const HttpRequest& request);

using Headers = std::vector<std::pair<std::string, std::string>>;
/// Headers of every response to a request of this origin.
Headers cors_headers(const Config& config, const HttpRequest& request);
/// Additional ones for a preflight (OPTIONS with Access-Control-Request-Method) from an allowed origin.
Headers preflight_headers(const Config& config, const HttpRequest& request);

/// The client's X-Request-Id where it is short and plain; else a new one.
std::string request_id(const HttpRequest& request);

/// 415 unless the body is JSON.
Parsed<void> check_content_type(const HttpRequest& request);

}  // namespace quern
