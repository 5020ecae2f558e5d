// Which models stay in memory: a pure decision, without clocks and threads of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace quern {

/// A model in memory.
struct Resident {
  uint64_t bytes = 0;
  bool idle = false;      // nobody uses it
  bool draining = false;  // it takes no new requests and goes when it is idle
  double last_used = 0;   // seconds on the caller's clock
  double ready_since = 0;
};

/// A model that is to be loaded.
struct Newcomer {
  uint64_t bytes = 0;
  /// When a request first asked for it; empty: nobody has, it is loaded ahead of need and takes only what is
  /// free.
  std::optional<double> wanted_since;
};

enum class RoomAction {
  load,    // there is room
  unload,  // `victim` first
  drain,   // `victim` gets no more requests
  wait,    // for something to become idle (ahead of need: for something to go)
  refuse,  // it can never fit
};
struct RoomDecision {
  RoomAction action = RoomAction::wait;
  size_t victim = 0;
};

/// Idle models go first, least recently used first. When all are busy, one is drained, so that a model which
/// is asked for gets its turn; but not before `patience` seconds of waiting, and none that came less than
/// `patience` ago: otherwise requests at random among many models would load all the time.
RoomDecision make_room(std::span<const Resident> residents, const Newcomer& newcomer, uint64_t limit,
                       double now, double patience);

}  // namespace quern
