// Checks for bugs. Never for input: input that fails is a Result (result.h).
#pragma once

#include <cstdio>
#include <cstdlib>

/// Stops the process when an invariant of our own code is broken.
#define QUERN_CHECK(condition)                                                                \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] {                                                          \
      std::fprintf(stderr, "bug: %s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                           \
    }                                                                                         \
  } while (0)

#ifdef QUERN_CHECKS
#define QUERN_DCHECK(condition) QUERN_CHECK(condition)
#else
#define QUERN_DCHECK(condition) ((void)0)
#endif
