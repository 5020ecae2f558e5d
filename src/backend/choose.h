// Which backend serves: make_backend (backend.h) for those who want to say why.
#pragma once

#include "backend/backend.h"

namespace quern {

/// As make_backend. auto takes a GPU where one can be used; where there is a backend for GPUs but it cannot
/// be, `note` says why in a line.
Result<std::unique_ptr<Backend>> choose_backend(std::string_view spec, const BackendOptions& options,
                                                std::string& note);

}  // namespace quern
