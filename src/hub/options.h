// The hub's settings, named and understood as huggingface_hub does.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <string>

#include "core/result.h"

namespace quern {

struct HubOptions {
  std::filesystem::path
      cache;  // HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT, without a slash at its end
  std::string token;                                // HF_TOKEN, else the file that `hf auth login` writes
  bool offline = false;                             // HF_HUB_OFFLINE
  std::chrono::seconds metadata_timeout{10};        // HF_HUB_ETAG_TIMEOUT
  std::chrono::seconds download_timeout{10};        // HF_HUB_DOWNLOAD_TIMEOUT: without a byte
  int connections = 8;                              // for one large file
  std::string model_path;                           // LLM_MODEL_PATH

  /// From variables (the environment's, with what a .env file adds). invalid_argument: HF_ENDPOINT is no URL,
  /// a time-out no number, or there is no folder for the cache.
  static Result<HubOptions> from(const std::map<std::string, std::string>& variables);
};

}  // namespace quern
