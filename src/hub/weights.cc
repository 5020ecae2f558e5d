#include "hub/weights.h"

#include <span>

#include "hub/scan.h"

namespace quern {

using hub::KnownFile;
using hub::RemoteFile;

WeightsFetcher::WeightsFetcher(HubOptions options, const HubCheckpoint& checkpoint, HubProgressSink progress,
                               std::stop_token stop)
    : options_(std::move(options)),
      checkpoint_(checkpoint),
      cache_(options_.cache),
      api_(options_, checkpoint.model.id),
      meter_(std::move(progress)),
      stop_(std::move(stop)),
      fetcher_(api_, cache_, meter_, stop_) {
  const LocalModel& model = checkpoint.model;
  for (const HubWeights& weights : checkpoint.weights) {
    files_.push_back({fmt::format("{}/{}", model.repo, weights.name),
                      api_.url_of(model.repo, model.commit, weights.name), weights.etag, weights.size});
    if (!weights.here) meter_.add_total(weights.size);
  }
}

Result<std::string> WeightsFetcher::head(size_t file, uint64_t count) {
  QUERN_TRY_VOID(api_.allowed());
  return api_.read(files_[file], 0, count, stop_);
}

Result<> WeightsFetcher::check_space() const {
  std::vector<RemoteFile> missing;
  for (size_t i = 0; i < files_.size(); ++i)
    if (!checkpoint_.weights[i].here) missing.push_back(files_[i]);
  return fetcher_.check_space(checkpoint_.model.repo, missing);
}

Result<> WeightsFetcher::check_space(size_t file) const {
  return fetcher_.check_space(checkpoint_.model.repo, std::span(&files_[file], 1));
}

Result<> WeightsFetcher::fetch(size_t file) {
  const LocalModel& model = checkpoint_.model;
  if (stop_.stop_requested()) return fail(ErrorCode::cancelled, "{}: stopped", model.repo);
  if (!checkpoint_.weights[file].here) QUERN_TRY_VOID(api_.allowed());
  QUERN_TRY_VOID(cache_.prepare(model.repo));
  return fetcher_.fetch_one(model.repo, model.commit, checkpoint_.weights[file].name, files_[file]);
}

Result<> remember_checkpoint(const HubOptions& options, const HubCheckpoint& checkpoint,
                             bool without_weights) {
  const hub::Cache cache(options.cache);
  const LocalModel& model = checkpoint.model;
  std::vector<KnownFile> files;
  for (const HubWeights& weights : checkpoint.weights)
    if (without_weights && !weights.etag.empty()) files.push_back({weights.name, weights.etag, weights.size});
  QUERN_TRY_VOID(cache.write_absent(model.repo, model.commit, files));
  return cache.write_ref(model.repo, model.revision, model.commit);
}

uint64_t drop_weights(const HubOptions& options, const HubCheckpoint& checkpoint, size_t file) {
  const LocalModel& model = checkpoint.model;
  return drop_file(hub::Cache(options.cache), model.repo, model.commit, checkpoint.weights[file].name);
}

}  // namespace quern
