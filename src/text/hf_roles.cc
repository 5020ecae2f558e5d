// Which tokens have a task, the chat template, and how the model's makers sample from it.
#include <algorithm>

#include "text/hf_json.h"
#include "text/hf_vocabulary.h"

namespace quern {
namespace {

using nlohmann::json;

/// A token's text: "…" or {"content": "…"}.
const std::string* token_text(const json& object, const std::string& key) {
  const json* token = member(object, key.c_str());
  if (token == nullptr) return nullptr;
  if (const auto* text = token->get_ptr<const std::string*>()) return text;
  return string_member(*token, "content");
}

/// The id of "bos", "eos", …: by its text in tokenizer_config.json or special_tokens_map.json, else as
/// generation_config.json or config.json number it (of a list, the first).
std::optional<int64_t> find_role(const HfSideFiles& files, const HfTokenizer& tokenizer,
                                 const std::string& role, Warnings& warnings) {
  for (const json* file : {&files.tokenizer_config, &files.special_tokens_map}) {
    const std::string* text = token_text(*file, role + "_token");
    if (text == nullptr || text->empty()) continue;
    if (const int64_t id = tokenizer.vocabulary.find(*text); id >= 0) return id;
    warnings.push_back(
        fmt::format("{}_token: '{}' is not in the vocabulary: left out", role, shorten(*text)));
    break;
  }
  const std::string key = role + "_token_id";
  for (const json* file : {&files.generation_config, &files.config}) {
    const json* value = member(*file, key.c_str());
    if (value != nullptr && value->is_array() && !value->empty()) value = &value->front();
    if (value == nullptr || !value->is_number_integer()) continue;
    const auto size = static_cast<int64_t>(tokenizer.vocabulary.size());
    const json holder = {{"id", *value}};
    const auto id = int_member(holder, "id");
    if (id && *id >= 0 && *id < size && tokenizer.vocabulary.taken(*id)) return id;
    if (id && *id < 0) continue;  // "none", as some configurations write it
    warnings.push_back(
        fmt::format("{}: {} is no token of the vocabulary of {}: left out", key, value->dump(), size));
  }
  const int64_t own = role == "bos" ? tokenizer.bos : role == "eos" ? tokenizer.eos : -1;
  return own >= 0 ? std::optional(own) : std::nullopt;
}

/// The token that the post-processor puts at one end; false: it is not the one that belongs there.
bool is_added(const std::optional<std::string>& text, std::optional<int64_t> id, const HfTokenizer& tokenizer,
              const char* where, Warnings& warnings) {
  if (!text) return false;
  if (id && tokenizer.vocabulary.text(*id) == *text) return true;
  warnings.push_back(
      fmt::format("post_processor.single: '{}' {} the text is not added: it is neither BOS nor EOS",
                  shorten(*text), where));
  return false;
}

/// Named templates by llama.cpp's keys: only letters and digits stay in a name.
std::string plain_name(std::string_view name) {
  std::string out(name);
  for (char& c : out) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain) c = '_';
  }
  return out;
}

/// Adds the names of those that are not the default.
void add_template_list(const json& list, std::vector<std::string>& names, Metadata& metadata,
                       Warnings& warnings) {
  for (const json& choice : list) {
    const std::string* name = string_member(choice, "name");
    const std::string* source = string_member(choice, "template");
    if (name == nullptr || source == nullptr || name->empty()) {
      warnings.push_back("chat_template: one of the list has no name or no template: left out");
      continue;
    }
    if (*name == "default") {
      metadata.add("tokenizer.chat_template", *source);
    } else if (metadata.add("tokenizer.chat_template." + plain_name(*name), *source)) {
      names.push_back(plain_name(*name));
    }
  }
}

/// The main one, or a list of them, from the first file that has any.
void add_main_template(const HfSideFiles& files, std::vector<std::string>& names, Metadata& metadata,
                       Warnings& warnings) {
  if (files.template_file) {
    metadata.add("tokenizer.chat_template", *files.template_file);
    return;
  }
  for (const json* file : {&files.template_json, &files.tokenizer_config}) {
    const json* found = member(*file, "chat_template");
    if (found == nullptr) continue;
    if (const auto* source = found->get_ptr<const std::string*>()) {
      metadata.add("tokenizer.chat_template", *source);
    } else if (found->is_array()) {
      add_template_list(*found, names, metadata, warnings);
    } else {
      warnings.push_back("chat_template: neither a text nor a list: left out");
    }
    return;
  }
}

void add_sampling(const json& config, Metadata& metadata, Warnings& warnings) {
  const auto number = [&](const char* name, double least, double most) -> std::optional<double> {
    const json* value = member(config, name);
    if (value == nullptr) return std::nullopt;
    const double given = value->is_number() ? value->get<double>() : least - 1;
    if (given >= least && given <= most) return given;
    warnings.push_back(fmt::format("generation_config.json: {}: {} is not between {} and {}: left out", name,
                                   shorten(value->dump(-1, ' ', true, json::error_handler_t::replace)), least,
                                   most));
    return std::nullopt;
  };
  if (const auto v = number("temperature", 0, 100)) metadata.add("general.sampling.temp", *v);
  if (const auto v = number("top_p", 0, 1)) metadata.add("general.sampling.top_p", *v);
  if (const auto v = number("min_p", 0, 1)) metadata.add("general.sampling.min_p", *v);
  if (const auto v = number("top_k", 0, 1e9))
    metadata.add("general.sampling.top_k", static_cast<int64_t>(*v));
  if (const auto v = number("repetition_penalty", 1e-3, 1e3))
    metadata.add("general.sampling.penalty_repeat", *v);
  if (const auto v = number("max_new_tokens", 1, 1e9))
    metadata.add("quern.generation.max_new_tokens", static_cast<uint64_t>(*v));
}

std::vector<int64_t> end_ids(const json& config) {
  const json* value = member(config, "eos_token_id");
  std::vector<int64_t> ids;
  if (value == nullptr) return ids;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    if (id.is_number_unsigned() ? id.get<uint64_t>() < kMaxVocabulary : id.is_number_integer())
      ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace

void add_special_tokens(const HfSideFiles& files, HfTokenizer& tokenizer, Warnings& warnings) {
  Metadata& metadata = tokenizer.metadata;
  const auto role = [&](const char* name, const char* key) {
    const auto id = find_role(files, tokenizer, name, warnings);
    if (id) metadata.add(fmt::format("tokenizer.ggml.{}_token_id", key), static_cast<uint64_t>(*id));
    return id;
  };
  auto bos = role("bos", "bos");
  const auto eos = role("eos", "eos");
  if (!bos && tokenizer.first) {  // nothing names it, but a text gets it
    if (const int64_t id = tokenizer.vocabulary.find(*tokenizer.first); id >= 0) {
      metadata.add("tokenizer.ggml.bos_token_id", static_cast<uint64_t>(id));
      bos = id;
    }
  }
  if (!role("unk", "unknown")) {
    if (const int64_t id = tokenizer.vocabulary.find(tokenizer.unknown);
        !tokenizer.unknown.empty() && id >= 0)
      metadata.add("tokenizer.ggml.unknown_token_id", static_cast<uint64_t>(id));
  }
  role("pad", "padding");

  const auto told = [&](const char* key) { return bool_member(files.tokenizer_config, key); };
  bool add_bos = !tokenizer.template_known, add_eos = false;
  if (const auto given = told("add_bos_token")) {
    add_bos = *given;
  } else if (tokenizer.template_known) {
    add_bos = is_added(tokenizer.first, bos, tokenizer, "before", warnings);
  }
  if (const auto given = told("add_eos_token")) {
    add_eos = *given;
  } else {
    add_eos = is_added(tokenizer.last, eos, tokenizer, "after", warnings);
  }
  metadata.add("tokenizer.ggml.add_bos_token", add_bos && bos.has_value());
  metadata.add("tokenizer.ggml.add_eos_token", add_eos && eos.has_value());
}

void add_chat_template(const HfSideFiles& files, Metadata& metadata, Warnings& warnings) {
  std::vector<std::string> names;
  add_main_template(files, names, metadata, warnings);
  for (const auto& [name, source] : files.more_templates) {
    if (metadata.add("tokenizer.chat_template." + plain_name(name), source))
      names.push_back(plain_name(name));
  }
  if (!names.empty()) metadata.add("tokenizer.chat_templates", Metadata::Array{std::move(names)});
}

void add_generation(const HfSideFiles& files, HfTokenizer& tokenizer, Warnings& warnings) {
  Metadata& metadata = tokenizer.metadata;
  add_sampling(files.generation_config, metadata, warnings);
  std::vector<int64_t> ids = end_ids(files.generation_config);
  if (ids.empty()) ids = end_ids(files.config);
  const auto eos = metadata.integer("tokenizer.ggml.eos_token_id");
  std::vector<int64_t> unnamed;
  for (const int64_t id : ids) {
    if (id < 0 || id >= static_cast<int64_t>(tokenizer.vocabulary.size())) {
      warnings.push_back(fmt::format("eos_token_id: {} is no token of the vocabulary of {}: left out", id,
                                     tokenizer.vocabulary.size()));
    } else if (id != eos && !names_an_end(tokenizer.vocabulary.text(id)) &&
               std::find(unnamed.begin(), unnamed.end(), id) == unnamed.end()) {
      unnamed.push_back(id);
    }
  }
  // llama.cpp has two more places for ids that end an answer.
  static constexpr const char* keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < std::min(unnamed.size(), std::size(keys)); ++i)
    metadata.add(keys[i], static_cast<uint64_t>(unnamed[i]));
  if (unnamed.size() > std::size(keys))
    metadata.add("tokenizer.quern.end_token_ids", Metadata::Array{std::move(unnamed)});
}

}  // namespace quern
