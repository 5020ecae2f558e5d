#include "hub/reference.h"

#include <algorithm>
#include <cctype>

#include "hub/quantization.h"

namespace quern {
namespace {

bool is_alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

/// Why this is no name of an owner or a repo; empty when it is one.
std::string_view problem_with_name(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > 96) return "is longer than 96 characters";
  for (const char c : name)
    if (!is_alnum(c) && c != '-' && c != '_' && c != '.')
      return "may hold letters, digits, '-', '_' and '.' only";
  if (name.find("--") != std::string_view::npos || name.find("..") != std::string_view::npos)
    return "may not hold '--' or '..'";
  if (name.front() == '.' || name.front() == '-' || name.back() == '.' || name.back() == '-')
    return "may not begin or end with '.' or '-'";
  return {};
}

/// Branches may hold slashes (refs/pr/1); what git forbids, and what would leave a folder, may not be there.
std::string_view problem_with_revision(std::string_view revision) {
  if (revision.size() > 255) return "is longer than 255 characters";
  for (const char c : revision)
    if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f' || std::string_view("\\~^:?*[").find(c) < 7)
      return "holds a character that no branch, tag or commit may have";
  if (revision.find("..") != std::string_view::npos || revision.find("//") != std::string_view::npos)
    return "holds '..' or '//'";
  if (revision.front() == '/' || revision.back() == '/') return "begins or ends with '/'";
  if (revision.front() == '.' || revision.find("/.") != std::string_view::npos)
    return "has a part that begins with '.'";
  return {};
}

/// File names as parts: none empty, none that leaves the folder.
std::string_view problem_with_file(std::string_view file) {
  if (file.size() > 1024) return "is longer than 1024 characters";
  for (size_t begin = 0; begin <= file.size();) {
    const size_t end = std::min(file.find('/', begin), file.size());
    const std::string_view part = file.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return "is not a plain path inside the repo";
    begin = end + 1;
  }
  return {};
}

Result<> parse_selector(std::string_view selector, ModelReference& reference) {
  const std::string& text = reference.text;
  const std::string lower_end =
      upper(selector.substr(selector.size() - std::min<size_t>(selector.size(), 5)));
  if (selector.empty())
    return fail(ErrorCode::invalid_argument,
                "{}: nothing stands behind ':': give a file, a quantization (Q4_K_M) or a revision",
                shown(text));
  if (lower_end == ".GGUF") {
    if (const auto problem = problem_with_file(selector); !problem.empty())
      return fail(ErrorCode::invalid_argument, "{}: the file's name {}", shown(text), problem);
    reference.file = selector;
  } else if (const std::string quant = quantization_name(selector); !quant.empty()) {
    reference.quant = quant;
  } else if (const auto problem = problem_with_revision(selector); !problem.empty()) {
    return fail(ErrorCode::invalid_argument, "{}: the revision {}", shown(text), problem);
  } else {
    reference.revision = selector;
  }
  return {};
}

bool is_path_by_form(std::string_view text) {
  if (text.starts_with('/') || text.starts_with('.') || text.starts_with('~')) return true;
  const std::string_view head = text.substr(0, text.find_first_of(":@"));
  if (std::count(head.begin(), head.end(), '/') != 1) return true;  // not owner/repo
  // A file in a folder: a hub's file stands behind a colon.
  return head.size() == text.size() && upper(text).ends_with(".GGUF");
}

}  // namespace

std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 120))
    out += static_cast<unsigned char>(c) < 0x20 || c == '\x7f' ? '?' : c;
  if (text.size() > 120) out += "…";
  return out;
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

bool is_repo_id(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && problem_with_name(text.substr(0, slash)).empty() &&
         problem_with_name(text.substr(slash + 1)).empty();
}

Result<ModelReference> parse_reference(std::string_view text) {
  ModelReference reference;
  reference.text = text;
  if (text.empty())
    return fail(ErrorCode::invalid_argument,
                "the model reference is empty: give owner/repo, a path, or quern/guide");
  if (text.find('\0') != std::string_view::npos)
    return fail(ErrorCode::invalid_argument, "{}: a model reference may not hold NUL", shown(text));
  if (text == "quern/guide") {
    reference.kind = ModelReference::Kind::guide;
    return reference;
  }
  if (is_path_by_form(text)) return reference;
  reference.kind = ModelReference::Kind::hub;
  std::string_view rest = text;
  if (const size_t at = rest.rfind('@'); at != std::string_view::npos) {
    reference.tokenizer_repo = rest.substr(at + 1);
    rest = rest.substr(0, at);
    if (!is_repo_id(reference.tokenizer_repo))
      return fail(ErrorCode::invalid_argument,
                  "{}: behind '@' stands the repo of the tokenizer, as owner/repo", shown(text));
  }
  const size_t colon = rest.find(':');
  reference.repo = rest.substr(0, colon);
  const size_t slash = reference.repo.find('/');
  const std::string_view repo = reference.repo;
  for (const auto& [part, name] : {std::pair("owner", repo.substr(0, slash)),
                                   std::pair("repo", slash == repo.npos ? "" : repo.substr(slash + 1))}) {
    if (const auto problem = problem_with_name(name); !problem.empty())
      return fail(ErrorCode::invalid_argument, "{}: the {}'s name {}", shown(text), part, problem);
  }
  if (colon != std::string_view::npos) QUERN_TRY_VOID(parse_selector(rest.substr(colon + 1), reference));
  return reference;
}

}  // namespace quern
