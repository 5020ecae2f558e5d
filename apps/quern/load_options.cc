#include "load_options.h"

#include "command.h"
#include "isq.h"

namespace quern {

Result<LoadOptions> load_options(const Config& config, const Backend& backend) {
  LoadOptions options;
  options.model_path = config.model_path;
  options.transform = isq_of(config);
  options.memory_limit = config.memory_limit;
  EngineOptions& engine = options.engine;
  engine.max_running = config.max_concurrent_requests;
  engine.max_queued = config.max_queued_requests;
  engine.queue_timeout = std::chrono::milliseconds(config.queue_timeout_ms);
  engine.chunk_rows = backend.prompt_rows();
  engine.device_threshold = config.gpu_pressure_threshold;
  engine.context = config.context_size;
  engine.block_size = config.block_size;
  engine.prefix_caching = config.prefix_caching;
  QUERN_TRY(engine.kv_type, kv_type_of(config, backend));
  return options;
}

}  // namespace quern
