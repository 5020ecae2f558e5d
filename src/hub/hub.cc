#include "hub/hub.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "core/file.h"
#include "core/log.h"
#include "hub/api.h"
#include "hub/cache.h"
#include "hub/fetch.h"
#include "hub/local.h"
#include "hub/retry.h"
#include "hub/select.h"

namespace quern {
namespace {

using namespace hub;

const std::string kMain = "main";

const std::string& revision_of(const ModelReference& reference) {
  return reference.revision.empty() ? kMain : reference.revision;
}

/// Files that need no hub; empty when the reference is a hub's.
Result<std::optional<LocalModel>> without_hub(const std::string& text, const HubOptions& options,
                                              ModelReference& reference) {
  if (text != "quern/guide") {
    if (const auto path = existing_path(text, options.model_path)) {
      QUERN_TRY(LocalModel model, open_local(text, *path));
      return std::optional(std::move(model));
    }
  }
  QUERN_TRY(reference, parse_reference(text));
  if (reference.kind == ModelReference::Kind::guide) {
    LocalModel guide;
    guide.kind = LocalModel::Kind::guide;
    guide.id = text;
    return std::optional(std::move(guide));
  }
  if (reference.kind == ModelReference::Kind::path)
    return fail(ErrorCode::not_found, "{}: no such file or folder{}; a model of the hub is owner/repo",
                shown(text), options.model_path.empty() ? "" : ", also not below " + options.model_path);
  return std::optional<LocalModel>();
}

struct Cached {
  LocalModel model;
  bool certain = true;  // the hub could not say otherwise: what was asked for is what is here
};

/// Where the other repo's tokenizer lies; empty when none is asked for.
Result<std::filesystem::path> cached_tokenizer(const ModelReference& reference, const Cache& cache) {
  if (reference.tokenizer_repo.empty()) return std::filesystem::path();
  const auto commit = cache.commit_of(reference.tokenizer_repo, kMain);
  if (!commit || tokenizer_files(cache.files(reference.tokenizer_repo, *commit)).empty())
    return fail(ErrorCode::not_found, "{}: the tokenizer is not in the cache", reference.tokenizer_repo);
  return cache.snapshot(reference.tokenizer_repo, *commit);
}

/// What the cache holds of the model, when it is whole.
Result<Cached> from_cache(const ModelReference& reference, const Cache& cache) {
  const auto commit = cache.commit_of(reference.repo, revision_of(reference));
  if (!commit)
    return fail(ErrorCode::not_found, "{}: revision {} is not in the cache", reference.repo,
                revision_of(reference));
  Cached cached;
  bool by_default = false;
  QUERN_TRY(cached.model, model_in_folder(reference, cache.snapshot(reference.repo, *commit), &by_default));
  cached.certain = is_commit(revision_of(reference)) && !by_default && reference.tokenizer_repo.empty();
  cached.model.id = reference.text;
  cached.model.repo = reference.repo;
  cached.model.revision = revision_of(reference);
  cached.model.commit = *commit;
  QUERN_TRY(cached.model.tokenizer_folder, cached_tokenizer(reference, cache));
  return cached;
}

bool weights_dropped(const ModelReference& reference, const Cache& cache) {
  const auto commit = cache.commit_of(reference.repo, revision_of(reference));
  return commit && !cache.absent(reference.repo, *commit).empty();
}

/// Says why what the cache holds cannot be used, when it is not just that something is missing.
Result<> check_usable(const ModelReference& reference, const Error& why) {
  if (why.code == ErrorCode::not_found) return {};
  return fail(why.code, "{} (so by what the cache holds: HF_HUB_OFFLINE=0 quern pull {} asks the hub)",
              why.message, shown(reference.text));
}

/// Of a checkpoint's weights what the cache knows. not_found: neither the file nor what it was.
Result<HubWeights> known_weights(const Cache& cache, const std::string& repo, const std::string& commit,
                                 const std::string& name) {
  const std::filesystem::path file = cache.snapshot(repo, commit) / name;
  std::error_code error;
  if (cache.has(repo, commit, name))
    return HubWeights{name, blob_behind(file, cache.repo_folder(repo) / "blobs").value_or(""),
                      std::filesystem::file_size(file, error), true};
  for (const KnownFile& known : cache.absent(repo, commit))
    if (known.name == name) return HubWeights{name, known.etag, known.size, false};
  return fail(ErrorCode::not_found, "{}: {} is not in the cache", repo, name);
}

/// A checkpoint whose files lie in the snapshot, apart from its weights.
Result<HubCheckpoint> describe_checkpoint(const ModelReference& reference, const std::string& commit,
                                          const Cache& cache) {
  HubCheckpoint checkpoint;
  LocalModel& model = checkpoint.model;
  model.kind = LocalModel::Kind::checkpoint;
  model.id = reference.text;
  model.repo = reference.repo;
  model.revision = revision_of(reference);
  model.commit = commit;
  model.folder = cache.snapshot(reference.repo, commit);
  QUERN_TRY(model.quantization, quantization_of_folder(model.folder));
  QUERN_TRY(model.tokenizer_folder, cached_tokenizer(reference, cache));
  return checkpoint;
}

/// What the cache holds of a checkpoint, and knows of its weights. not_found: not enough.
Result<HubCheckpoint> cached_checkpoint(const ModelReference& reference, const Cache& cache) {
  const std::string& repo = reference.repo;
  const auto commit = cache.commit_of(repo, revision_of(reference));
  if (!commit) return fail(ErrorCode::not_found, "{}: not in the cache", repo);
  std::vector<std::string> files = cache.files(repo, *commit);
  for (const KnownFile& known : cache.absent(repo, *commit)) files.push_back(known.name);
  QUERN_TRY(const Selection selection, select_files(reference, files));
  if (selection.kind != Selection::Kind::checkpoint)
    return fail(ErrorCode::not_found, "{}: no checkpoint", repo);
  QUERN_TRY(HubCheckpoint checkpoint, describe_checkpoint(reference, *commit, cache));
  std::vector<std::string> names = selection.weights;
  if (!selection.index.empty()) {
    const auto index = read_small_file(checkpoint.model.folder / selection.index, kMaxListingBytes);
    if (!index) return fail(ErrorCode::not_found, "{}: {} is not in the cache", repo, selection.index);
    QUERN_TRY(names, parse_shards(*index));
  }
  for (const std::string& name : names) {
    QUERN_TRY(HubWeights weights, known_weights(cache, repo, *commit, name));
    checkpoint.weights.push_back(std::move(weights));
  }
  return checkpoint;
}

void say_choice(const ModelReference& reference, const Selection& selection) {
  if (!selection.by_default || selection.alternatives.empty()) return;
  log::info("no type was asked for: took the default",
            {{"model", reference.repo},
             {"type", selection.chosen},
             {"others", fmt::format("{}", fmt::join(selection.alternatives, ", "))}});
}

/// A revision that the hub does not have, with the nearest names that it has: a type that was mistyped looks
/// like a revision, too.
tl::unexpected<Error> no_such_revision(Api& api, const ModelReference& reference, Error error,
                                       const std::stop_token& stop) {
  if (error.code != ErrorCode::not_found || reference.revision.empty()) return fail(std::move(error));
  const auto refs = api.refs(reference.repo, stop);
  if (refs.empty()) return fail(std::move(error));
  std::vector<std::string> candidates = refs;
  if (const auto listing = api.listing(reference.repo, kMain, 1, stop)) {
    for (const GgufModel& model : gguf_models(listing->files)) {
      if (!model.quant.empty()) candidates.push_back(model.quant);
      candidates.push_back(model.files.front());
    }
  }
  const size_t few = std::min<size_t>(refs.size(), 12);
  return fail(
      ErrorCode::not_found,
      "{}: {} is no type, branch, tag or commit of {}: did you mean {}? Its branches and tags are {}{}",
      shown(reference.text), shown(reference.revision), reference.repo,
      fmt::join(nearest_names(reference.revision, candidates, 3), ", "),
      fmt::join(refs.begin(), refs.begin() + static_cast<long>(few), ", "),
      refs.size() > few ? fmt::format(" and {} more", refs.size() - few) : "");
}

Result<> fetch_tokenizer(const std::string& repo, Api& api, const Cache& cache, Meter& meter,
                         const std::stop_token& stop) {
  QUERN_TRY(const RepoListing listing, api.listing(repo, kMain, kMaxAttempts, stop));
  const auto files = tokenizer_files(listing.files);
  if (files.empty())
    return fail(ErrorCode::not_found, "{}: it has no tokenizer (tokenizer.json or tokenizer.model)", repo);
  Fetcher fetcher(api, cache, meter, stop);
  QUERN_TRY_VOID(fetcher.fetch_files(repo, listing, files));
  return cache.write_ref(repo, kMain, listing.commit);
}

}  // namespace

Result<LocalModel> Hub::fetch(const std::string& text, const HubProgressSink& progress,
                              const std::stop_token& stop) const {
  ModelReference reference;
  QUERN_TRY(auto local, without_hub(text, options_, reference));
  if (local) return *std::move(local);
  const Cache cache(options_.cache);
  auto cached = from_cache(reference, cache);
  if (cached && (cached->certain || options_.offline)) return std::move(cached->model);
  if (!cached && options_.offline && !weights_dropped(reference, cache))
    QUERN_TRY_VOID(check_usable(reference, cached.error()));
  Api api(options_, text);
  QUERN_TRY_VOID(api.allowed());
  Meter meter(progress);
  meter.phase(HubProgress::Phase::asking, reference.repo);
  const auto listing = api.listing(reference.repo, revision_of(reference), cached ? 1 : kMaxAttempts, stop);
  if (!listing) {
    if (!cached || listing.error().code == ErrorCode::cancelled)
      return no_such_revision(api, reference, listing.error(), stop);
    log::warn("the hub did not answer as hoped: using what the cache holds",
              {{"model", text}, {"commit", cached->model.commit}, {"why", listing.error().message}});
    return std::move(cached->model);
  }
  QUERN_TRY(const Selection selection, select_files(reference, listing->files));
  say_choice(reference, selection);
  Fetcher fetcher(api, cache, meter, stop);
  QUERN_TRY_VOID(fetcher.fetch_model(reference.repo, revision_of(reference), *listing, selection));
  if (!reference.tokenizer_repo.empty())
    QUERN_TRY_VOID(fetch_tokenizer(reference.tokenizer_repo, api, cache, meter, stop));
  meter.finish();
  QUERN_TRY(Cached fetched, from_cache(reference, cache));
  // The folder may hold more than the hub lists: what was chosen from the listing is what was meant.
  if (selection.kind == Selection::Kind::gguf && selection.by_default) {
    ModelReference exact = reference;
    exact.file = selection.files.front();
    QUERN_TRY(fetched, from_cache(exact, cache));
  }
  return std::move(fetched.model);
}

Result<std::optional<HubCheckpoint>> Hub::checkpoint(const std::string& text, const HubProgressSink& progress,
                                                     const std::stop_token& stop) const {
  using Answer = std::optional<HubCheckpoint>;
  ModelReference reference;
  QUERN_TRY(const auto local, without_hub(text, options_, reference));
  if (local) return Answer();
  const std::string& repo = reference.repo;
  const Cache cache(options_.cache);
  auto cached = cached_checkpoint(reference, cache);
  if (cached && (options_.offline || is_commit(revision_of(reference)))) return Answer(*std::move(cached));
  const bool other = !cached && from_cache(reference, cache);
  if (options_.offline || other) return Answer();
  Api api(options_, text);
  Meter meter(progress);
  meter.phase(HubProgress::Phase::asking, repo);
  const auto listing = api.listing(repo, revision_of(reference), cached ? 1 : kMaxAttempts, stop);
  if (!listing) {
    if (!cached || listing.error().code == ErrorCode::cancelled)
      return no_such_revision(api, reference, listing.error(), stop);
    log::warn("the hub did not answer as hoped: using what the cache holds",
              {{"model", text}, {"commit", cached->model.commit}, {"why", listing.error().message}});
    return Answer(*std::move(cached));
  }
  QUERN_TRY(const Selection selection, select_files(reference, listing->files));
  if (selection.kind != Selection::Kind::checkpoint) return Answer();
  Fetcher fetcher(api, cache, meter, stop);
  QUERN_TRY(const auto names, fetcher.fetch_small_files(repo, *listing, selection));
  if (!reference.tokenizer_repo.empty())
    QUERN_TRY_VOID(fetch_tokenizer(reference.tokenizer_repo, api, cache, meter, stop));
  QUERN_TRY(HubCheckpoint checkpoint, describe_checkpoint(reference, listing->commit, cache));
  for (const std::string& name : names) {
    auto known = known_weights(cache, repo, listing->commit, name);
    if (!known) {
      QUERN_TRY(RemoteFile file, api.file(repo, listing->commit, name, stop));
      known = HubWeights{name, std::move(file.etag), file.size, false};
    }
    checkpoint.weights.push_back(*std::move(known));
  }
  return Answer(std::move(checkpoint));
}

Result<LocalModel> Hub::find(const std::string& text) const {
  ModelReference reference;
  QUERN_TRY(auto local, without_hub(text, options_, reference));
  if (local) return *std::move(local);
  const Cache cache(options_.cache);
  auto cached = from_cache(reference, cache);
  if (cached) return std::move(cached->model);
  if (weights_dropped(reference, cache))
    return fail(
        ErrorCode::not_found,
        "{}: its weights were dropped once they were quantized (LLM_ISQ_KEEP_SOURCE=false): fetch them "
        "again with quern pull {}",
        shown(text), shown(text));
  QUERN_TRY_VOID(check_usable(reference, cached.error()));
  return fail(ErrorCode::not_found, "{}: not in the cache: fetch it with quern pull {}", shown(text),
              shown(text));
}

Result<RemoteModel> Hub::describe(const std::string& text, const std::stop_token& stop) const {
  QUERN_TRY(const ModelReference reference, parse_reference(text));
  if (reference.kind != ModelReference::Kind::hub)
    return fail(ErrorCode::invalid_argument, "{}: not a model of the hub", shown(text));
  if (options_.offline)
    return fail(ErrorCode::unavailable, "{}: HF_HUB_OFFLINE forbids to ask the hub: set HF_HUB_OFFLINE=0",
                shown(text));
  Api api(options_, text);
  const auto listing = api.listing(reference.repo, revision_of(reference), kMaxAttempts, stop);
  if (!listing) return no_such_revision(api, reference, listing.error(), stop);
  QUERN_TRY(const Selection selection, select_files(reference, listing->files));
  RemoteModel model{reference.repo,
                    listing->commit,
                    selection.chosen,
                    selection.kind == Selection::Kind::checkpoint,
                    {},
                    {},
                    selection.alternatives};
  std::vector<std::string> weights = selection.files;
  const auto content = [&](const std::string& name) -> Result<std::string> {
    QUERN_TRY(const RemoteFile file, api.file(model.repo, model.commit, name, stop));
    return api.read(file, 0, std::min<uint64_t>(file.size, kMaxListingBytes), stop);
  };
  if (model.checkpoint) {
    QUERN_TRY(const std::string config, content("config.json"));
    QUERN_TRY(std::string method, quantization_method(config));
    for (const std::string& file : selection.files)
      if (file == "quantize_config.json" || file == "quant_config.json")
        model.quantization_files.push_back(file);
    if (method.empty() && !model.quantization_files.empty()) method = "gptq";
    if (!method.empty()) model.quantization = std::move(method);
    weights = selection.weights;
    if (!selection.index.empty()) {
      QUERN_TRY(const std::string index, content(selection.index));
      QUERN_TRY(weights, parse_shards(index));
    }
  }
  for (const std::string& name : weights) {
    QUERN_TRY(const RemoteFile file, api.file(model.repo, model.commit, name, stop));
    model.files.push_back({name, file.size});
  }
  return model;
}

Result<std::string> Hub::read(const RemoteModel& model, const HubFile& file, uint64_t first, uint64_t count,
                              const std::stop_token& stop) const {
  Api api(options_, model.repo);
  QUERN_TRY(const RemoteFile remote, api.file(model.repo, model.commit, file.name, stop));
  return api.read(remote, first, count, stop);
}

}  // namespace quern
