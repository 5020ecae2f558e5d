#include "hub/select.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>

#include "config/nearest.h"
#include "core/shard_name.h"
#include "hub/quantization.h"

namespace quern::hub {
namespace {

/// What a GGUF repo without a selector means: the first of these that it has, then any other that runs here,
/// by its bits, then full precision.
constexpr std::string_view kDefaultOrder[] = {"Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_K_L", "Q4_0",
                                              "Q5_K_S", "Q6_K",   "Q8_0",   "Q3_K_M", "Q2_K"};
constexpr std::string_view kOtherBits[] = {"Q4", "Q5", "Q6", "Q8", "Q3", "Q2"};
constexpr std::string_view kFullPrecision[] = {"BF16", "F16"};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string_view without_dynamic(std::string_view quant) {
  return quant.starts_with("UD-") ? quant.substr(3) : quant;
}

/// Of two models of one type the one a person would expect: fewer folders, the shorter name, the alphabet.
bool comes_before(const GgufModel& a, const GgufModel& b) {
  const std::string &x = a.files.front(), &y = b.files.front();
  const auto key = [](const GgufModel& m, const std::string& f) {
    return std::tuple(!m.complete, std::ranges::count(f, '/'), f.size());
  };
  return std::pair(key(a, x), x) < std::pair(key(b, y), y);
}

const GgufModel* best_of(std::span<const GgufModel> models, std::string_view quant) {
  const GgufModel* best = nullptr;
  for (const bool dynamic : {false, true}) {  // UD-Q4_K_XL answers to Q4_K_XL where nothing else does
    for (const GgufModel& model : models) {
      if ((dynamic ? without_dynamic(model.quant) : std::string_view(model.quant)) != quant) continue;
      if (best == nullptr || comes_before(model, *best)) best = &model;
    }
    if (best != nullptr) return best;
  }
  return nullptr;
}

const GgufModel* best_with_bits(std::span<const GgufModel> models, std::string_view bits) {
  const GgufModel* best = nullptr;
  for (const GgufModel& model : models) {
    if (!without_dynamic(model.quant).starts_with(bits)) continue;
    if (best == nullptr || comes_before(model, *best)) best = &model;
  }
  return best;
}

std::vector<std::string> labels(std::span<const GgufModel> models) {
  std::vector<std::string> names;
  for (const GgufModel& model : models)
    names.push_back(model.quant.empty() ? model.files.front() : model.quant);
  std::ranges::sort(names);
  const auto again = std::ranges::unique(names);
  names.erase(again.begin(), again.end());
  return names;
}

std::string a_few(const std::vector<std::string>& names) {
  const size_t count = std::min<size_t>(names.size(), 16);
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<long>(count), ", "));
  if (names.size() > count) text += fmt::format(" and {} more", names.size() - count);
  return text;
}

tl::unexpected<Error> nothing_like(const ModelReference& reference, std::span<const GgufModel> models,
                                   const std::string& wanted, std::vector<std::string> candidates) {
  const auto near = nearest_names(wanted, std::move(candidates), 3);
  return fail(ErrorCode::not_found, "{}: {} is not in {}: did you mean {}? There are {}",
              shown(reference.text), shown(wanted), reference.repo, fmt::join(near, ", "),
              a_few(labels(models)));
}

Result<const GgufModel*> by_file(const ModelReference& reference, std::span<const GgufModel> models) {
  const GgufModel* by_name = nullptr;
  bool unique = true;
  std::vector<std::string> all;
  for (const GgufModel& model : models) {
    for (const std::string& file : model.files) {
      if (file == reference.file) return &model;
      if (lower(base_name(file)) == lower(base_name(reference.file)) && by_name != &model) {
        unique = by_name == nullptr;
        by_name = &model;
      }
      all.push_back(file);
    }
  }
  // A name without its folder, or in another case, is clear where there is one such file.
  if (by_name != nullptr && unique && reference.file.find('/') == std::string::npos) return by_name;
  return nothing_like(reference, models, reference.file, std::move(all));
}

Result<const GgufModel*> by_default(const ModelReference& reference, std::span<const GgufModel> models) {
  for (const std::string_view quant : kDefaultOrder)
    if (const GgufModel* model = best_of(models, quant)) return model;
  for (const std::string_view bits : kOtherBits)
    if (const GgufModel* model = best_with_bits(models, bits)) return model;
  for (const std::string_view quant : kFullPrecision)
    if (const GgufModel* model = best_of(models, quant)) return model;
  if (models.size() == 1) return &models.front();
  return fail(ErrorCode::not_found, "{}: none of its types is one to choose unasked: name one: {}",
              shown(reference.text), a_few(labels(models)));
}

Result<Selection> select_gguf(const ModelReference& reference, std::span<const GgufModel> models) {
  const GgufModel* model = nullptr;
  if (!reference.file.empty()) {
    QUERN_TRY(model, by_file(reference, models));
  } else if (!reference.quant.empty()) {
    model = best_of(models, reference.quant);
    if (model == nullptr) return nothing_like(reference, models, reference.quant, labels(models));
  } else {
    QUERN_TRY(model, by_default(reference, models));
  }
  if (!model->complete)
    return fail(ErrorCode::not_found, "{}: of the split file {} parts are missing in the repo",
                shown(reference.text), model->files.front());
  Selection selection;
  selection.files = model->files;
  selection.chosen = model->quant.empty() ? model->files.front() : model->quant;
  selection.by_default = reference.file.empty() && reference.quant.empty();
  for (const std::string& label : labels(models))
    if (label != selection.chosen) selection.alternatives.push_back(label);
  return selection;
}

/// "imatrix.gguf", "m-BF16.imatrix.gguf": an importance matrix is made of a model in full precision, and
/// "m-imatrix-Q4_K_M.gguf" is a model made with one.
bool is_importance_matrix(std::string_view name) {
  if (name.find("imatrix") == std::string_view::npos) return false;
  const std::string quant = quantization_of_file(name);
  return quant.empty() || quant == "F32" ||
         std::ranges::find(kFullPrecision, quant) != std::end(kFullPrecision);
}

bool is_configuration(std::string_view file) {
  return file == "config.json" || file == "generation_config.json" || file == "quantize_config.json" ||
         file == "quant_config.json";
}

bool is_tokenizer(std::string_view file) {
  static constexpr std::string_view kNames[] = {
      "tokenizer.json",     "tokenizer_config.json",   "tokenizer.model",   "vocab.json",
      "merges.txt",         "special_tokens_map.json", "added_tokens.json", "chat_template.json",
      "chat_template.jinja"};
  constexpr std::string_view kMore = "additional_chat_templates/";
  const bool more = file.starts_with(kMore) && file.ends_with(".jinja") &&
                    file.find('/', kMore.size()) == std::string_view::npos;
  return more || std::ranges::find(kNames, file) != std::end(kNames);
}

/// The safetensors at the top of a repo that are the model: not Mistral's second copy (consolidated), not
/// adapters.
std::vector<std::string> weight_files(std::span<const std::string> files) {
  std::vector<std::string> found;
  for (const std::string& file : files) {
    if (file.find('/') != std::string::npos || !file.ends_with(".safetensors")) continue;
    if (file.starts_with("consolidated") || file.starts_with("adapter_")) continue;
    found.push_back(file);
  }
  return found;
}

std::string index_file(std::span<const std::string> files) {
  std::string found;
  for (const std::string& file : files) {
    if (file.find('/') != std::string::npos || !file.ends_with(".safetensors.index.json")) continue;
    if (file.starts_with("consolidated")) continue;
    if (found.empty() || file == "model.safetensors.index.json") found = file;
  }
  return found;
}

/// model-00001-of-0000N.safetensors and so on say themselves which make the model.
Result<std::vector<std::string>> numbered_shards(const ModelReference& reference,
                                                 const std::vector<std::string>& weights) {
  std::vector<std::string> shards;
  unsigned count = 0;
  for (const std::string& file : weights) {  // in the order of the listing: sorted
    const auto shard = parse_shard_name(file, ".safetensors");
    if (!shard || shard->prefix != "model") continue;
    if (shard->number != shards.size() + 1 || (count != 0 && shard->count != count))
      return fail(ErrorCode::not_found, "{}: {} has no index of its shards, and those before {} are missing",
                  shown(reference.text), reference.repo, file);
    count = shard->count;
    shards.push_back(file);
  }
  if (shards.empty())
    return fail(ErrorCode::unsupported,
                "{}: {} has {} safetensors files and no index that says which make the model",
                shown(reference.text), reference.repo, weights.size());
  if (shards.size() != count)
    return fail(ErrorCode::not_found, "{}: {} has no index of its shards, and only {} of {} are there",
                shown(reference.text), reference.repo, shards.size(), count);
  return shards;
}

Result<Selection> select_checkpoint(const ModelReference& reference, std::span<const std::string> files) {
  const auto weights = weight_files(files);
  const bool pickled = std::ranges::any_of(files, [](const std::string& f) {
    return f.ends_with(".bin") || f.ends_with(".pt") || f.ends_with(".pth");
  });
  if (weights.empty())
    return fail(ErrorCode::unsupported, "{}: no GGUF and no safetensors files in {}{}", shown(reference.text),
                reference.repo,
                pickled ? ", only pickled ones, which may run code when loaded: look for a conversion of it"
                        : ": look for a conversion of it whose name ends in -GGUF");
  if (std::ranges::find(files, "config.json") == files.end())
    return fail(ErrorCode::unsupported,
                "{}: {} has safetensors files, but no config.json: it is no language model",
                shown(reference.text), reference.repo);
  Selection selection;
  selection.kind = Selection::Kind::checkpoint;
  selection.chosen = "safetensors";
  for (const std::string& file : files)
    if (is_configuration(file) || is_tokenizer(file)) selection.files.push_back(file);
  selection.index = index_file(files);
  if (!selection.index.empty()) {
    selection.files.push_back(selection.index);
    return selection;
  }
  if (std::ranges::find(weights, "model.safetensors") != weights.end()) {
    selection.weights = {"model.safetensors"};
  } else if (weights.size() == 1) {
    selection.weights = weights;
  } else {
    QUERN_TRY(selection.weights, numbered_shards(reference, weights));
  }
  selection.files.insert(selection.files.end(), selection.weights.begin(), selection.weights.end());
  return selection;
}

}  // namespace

std::vector<GgufModel> gguf_models(std::span<const std::string> files, std::string_view named) {
  std::map<std::string, std::map<unsigned, std::string>> split;  // by prefix and count
  std::map<std::string, unsigned> counts;
  std::vector<GgufModel> models;
  for (const std::string& file : files) {
    const std::string name = lower(base_name(file));
    if (!name.ends_with(".gguf") || name.find("mmproj") != std::string::npos) continue;
    if (is_importance_matrix(name) && name != lower(base_name(named))) continue;
    const auto shard = parse_shard_name(file, ".gguf");
    if (!shard || shard->count == 1) {
      models.push_back({quantization_of_file(file), {file}, true});
    } else {
      const std::string key = fmt::format("{}-of-{}", shard->prefix, shard->count);
      split[key][shard->number] = file;
      counts[key] = shard->count;
    }
  }
  for (const auto& [key, parts] : split) {
    GgufModel model;
    for (const auto& [number, file] : parts) model.files.push_back(file);
    model.complete = parts.size() == counts[key];
    model.quant = quantization_of_file(key.substr(0, key.rfind("-of-")));
    models.push_back(std::move(model));
  }
  std::ranges::sort(models, {}, [](const GgufModel& m) { return m.files.front(); });
  return models;
}

Result<Selection> select_files(const ModelReference& reference, std::span<const std::string> files) {
  const auto models = gguf_models(files, reference.file);
  if (!models.empty()) return select_gguf(reference, models);
  if (!reference.file.empty() || !reference.quant.empty()) {
    const std::string& wanted = reference.file.empty() ? reference.quant : reference.file;
    return fail(
        ErrorCode::not_found,
        "{}: {} has no GGUF files, so there is no {}: leave the selector out, or look for a repo whose name "
        "ends in -GGUF",
        shown(reference.text), reference.repo, shown(wanted));
  }
  return select_checkpoint(reference, files);
}

std::vector<std::string> tokenizer_files(std::span<const std::string> files) {
  std::vector<std::string> found;
  bool vocabulary = false;
  for (const std::string& file : files) {
    if (!is_tokenizer(file) && !is_configuration(file)) continue;
    vocabulary |= file == "tokenizer.json" || file == "tokenizer.model";
    found.push_back(file);
  }
  if (!vocabulary) found.clear();
  return found;
}

std::vector<std::string> nearest_names(std::string_view wanted, std::vector<std::string> candidates,
                                       size_t count) {
  const std::string key = lower(wanted.substr(0, 256));
  // The cost is a product of lengths and numbers, and both come from outside.
  if (candidates.size() > 2000) candidates.resize(2000);
  std::vector<std::pair<size_t, std::string>> ranked;
  for (std::string& name : candidates)
    ranked.emplace_back(edit_distance(key, lower(std::string_view(name).substr(0, 256))), std::move(name));
  std::ranges::stable_sort(ranked, {}, &std::pair<size_t, std::string>::first);
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(count, ranked.size()); ++i) names.push_back(std::move(ranked[i].second));
  return names;
}

}  // namespace quern::hub
