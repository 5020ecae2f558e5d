#include "engine/residency.h"

namespace quern {
namespace {

/// The least recently used one that `eligible` accepts.
template <class Eligible>
std::optional<size_t> oldest(std::span<const Resident> residents, const Eligible& eligible) {
  std::optional<size_t> found;
  for (size_t i = 0; i < residents.size(); ++i) {
    if (!eligible(residents[i])) continue;
    if (!found || residents[i].last_used < residents[*found].last_used) found = i;
  }
  return found;
}

}  // namespace

RoomDecision make_room(std::span<const Resident> residents, const Newcomer& newcomer, uint64_t limit,
                       double now, double patience) {
  if (newcomer.bytes > limit) return {RoomAction::refuse};
  uint64_t used = 0, leaving = 0;
  for (const Resident& r : residents) {
    used += r.bytes;
    if (r.draining) leaving += r.bytes;
  }
  if (used <= limit && newcomer.bytes <= limit - used) return {RoomAction::load};
  if (!newcomer.wanted_since) return {RoomAction::wait};
  if (const auto victim = oldest(residents, [](const Resident& r) { return r.idle && r.draining; }))
    return {RoomAction::unload, *victim};
  if (const auto victim = oldest(residents, [](const Resident& r) { return r.idle; }))
    return {RoomAction::unload, *victim};
  const bool enough = used - leaving <= limit && newcomer.bytes <= limit - (used - leaving);
  if (enough || now - *newcomer.wanted_since < patience) return {RoomAction::wait};
  const auto victim =
      oldest(residents, [&](const Resident& r) { return !r.draining && now - r.ready_since >= patience; });
  return victim ? RoomDecision{RoomAction::drain, *victim} : RoomDecision{RoomAction::wait};
}

}  // namespace quern
