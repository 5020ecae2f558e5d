// Clients in a closed loop: each sends its next request when the last one is answered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace quern::serving {

/// What a client sends, and the tokens that the server makes of it.
struct Prompt {
  std::string text;
  std::vector<int32_t> tokens;
};

/// One answer as a client saw it.
struct Answer {
  double first = 0;  // seconds from sending the request to its first token
  int64_t tokens = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  /// Sends a prompt and waits for the end of the streamed, greedy answer of exactly `tokens` tokens.
  virtual Result<Answer> ask(const Prompt& prompt, int32_t tokens) = 0;
};

/// Gives the tokens to the engine.
std::unique_ptr<Transport> in_process(Engine& engine);
/// Sends the text: POST /v1/completions on one kept-alive connection to 127.0.0.1.
Result<std::unique_ptr<Transport>> over_http(uint16_t port, std::string model);

}  // namespace quern::serving
