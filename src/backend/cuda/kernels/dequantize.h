// From packed words (layout.h) to weights, for kernels.
#pragma once

#include "backend/cuda/layout.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {

constexpr uint32_t kHalf1024 = 0x64006400;  // a pair of 1024s: an integer below 1024 in the mantissa is added

/// A lane's part of one unit, as loaded.
template <Form form>
struct Raw {
  static constexpr int kHeads = form.super ? form.head_words() : form.groups() * form.head_words();
  uint32_t code[form.bits];
  uint32_t head[kHeads > 0 ? kHeads : 1];
  uint32_t super[form.super ? form.super_words() : 1];
};

/// Reads through load_once.
struct FromMemory {
  template <class T>
  QUERN_DEVICE T operator()(const T* p) const {
    return load_once(p);
  }
};
/// Reads what lies in shared memory.
struct FromShared {
  template <class T>
  QUERN_DEVICE T operator()(const T* p) const {
    return *p;
  }
};

template <int plane, class Load>
QUERN_DEVICE void load_plane(uint32_t* out, const uint32_t* words, int lane, Load load) {
  if constexpr (plane >= 4) {
    QUERN_UNROLL
    for (int i = 0; i < plane / 4; ++i) {
      const auto four = load(reinterpret_cast<const Words4*>(words) + 32 * i + lane);
      QUERN_UNROLL
      for (int j = 0; j < 4; ++j) out[4 * i + j] = four.w[j];
    }
  } else if constexpr (plane == 2) {
    const auto two = load(reinterpret_cast<const Words2*>(words) + lane);
    out[0] = two.w[0], out[1] = two.w[1];
  } else {
    out[0] = load(words + lane);
  }
}

/// `count` words, 1, 2 or 4, that lie together, aligned.
template <int count>
QUERN_DEVICE void load_words(uint32_t* out, const uint32_t* words) {
  if constexpr (count == 4) {
    const auto four = *reinterpret_cast<const Words4*>(words);
    QUERN_UNROLL
    for (int j = 0; j < 4; ++j) out[j] = four.w[j];
  } else if constexpr (count == 2) {
    const auto two = *reinterpret_cast<const Words2*>(words);
    out[0] = two.w[0], out[1] = two.w[1];
  } else if constexpr (count == 1) {
    out[0] = words[0];
  }
}

/// The codes of a unit, which begin at `codes`.
template <Form form, class Load>
QUERN_DEVICE void load_codes(Raw<form>& raw, const uint32_t* codes, int lane, Load load) {
  constexpr int low = low_plane(form.bits), high = high_plane(form.bits);
  load_plane<low>(raw.code, codes, lane, load);
  if constexpr (high > 0) load_plane<high>(raw.code + low, codes + 32 * low, lane, load);
}

/// Starts the copy of a lane's words of a unit from global to shared memory, for load_codes of the same lane.
/// Both pointers are the lane's own, from lane_words; offsets in words.
template <int plane, int to, int from>
QUERN_DEVICE void copy_plane(SharedPlace shared, const uint32_t* codes) {
  constexpr int words = plane < 4 ? plane : 4;  // that lie together
  if constexpr (plane > 4) copy_plane<plane - 4, to + 128, from + 128>(shared, codes);
  copy_async_at<4 * words, 4 * to, 4 * from>(shared, codes);
}
/// Of a unit `to` words behind `shared` and `from` words behind `codes`.
template <Form form, int to, int from>
QUERN_DEVICE void copy_codes(SharedPlace shared, const uint32_t* codes, int lane) {
  constexpr int low = low_plane(form.bits), high = high_plane(form.bits);
  constexpr int low_words = low < 4 ? low : 4, high_words = high < 4 ? high : 4;
  copy_plane<low, to, from>(shared + 4 * low_words * lane, codes + low_words * lane);
  if constexpr (high > 0)
    copy_plane<high, to + 32 * low, from + 32 * low>(shared + 4 * high_words * lane,
                                                     codes + high_words * lane);
}

template <Form form>
QUERN_DEVICE const uint32_t* codes_of(const Packed& w, int tile, int unit) {
  return w.codes + (int64_t{tile} * w.units + unit) * unit_words(form.bits);
}

/// Words of a tile's scales: of a plain group or, in two levels, of a unit and of a super.
template <Form form>
constexpr int kHeadStep = 8 * form.head_words();
template <Form form>
constexpr int kSuperStep = 8 * form.super_words();

/// Brings the scales of a tile's units into shared memory, kWords words a unit; a warp's lanes copy 16 bytes
/// each. Into registers they could be asked for as early, but a warp counts its loads under way with six
/// counters and waits until one is at zero: with the scales that it needs it would wait for those of later
/// units, too, each time as long as memory takes.
template <Form form>
struct HeadCopies {
  static constexpr int kWords =
      form.super ? kHeadStep<form> + kSuperStep<form> : form.groups() * kHeadStep<form>;
  const uint32_t* from = nullptr;  // what this lane copies of the first unit
  int group = 0, shift = 0, step = 0;

  HeadCopies() = default;
  QUERN_DEVICE HeadCopies(const Packed& w, int tile, int lane) {
    const int word = 4 * lane;
    if constexpr (form.super) {
      const bool upper = word >= kHeadStep<form>;
      shift = upper ? 3 : 1;
      step = upper ? kSuperStep<form> : kHeadStep<form>;
      from = upper ? w.supers + int64_t{tile} * supers_of(w.units) * step + (word - kHeadStep<form>)
                   : w.heads + int64_t{tile} * w.units * step + word;
    } else if constexpr (kWords > 0) {
      shift = w.group_shift;
      step = kHeadStep<form>;
      group = word / step;
      from = w.heads + int64_t{tile} * groups_of(w.units, shift) * step + word % step;
    }
  }
  /// Starts the copy of a unit's, `to` bytes behind the lane's place.
  template <int to>
  QUERN_DEVICE void start(SharedPlace place, int unit, int lane) const {
    if (4 * lane < kWords) copy_async_at<16, to, 0>(place, from + ((2 * unit + group) >> shift) * step);
  }
};

/// A lane's scales of a unit: plain, its groups' lie `group_step` words apart.
template <Form form>
QUERN_DEVICE void load_heads(Raw<form>& raw, const uint32_t* heads, int group_step, const uint32_t* supers,
                             int lane) {
  constexpr int words = form.head_words(), super_words = form.super_words();
  const int pair = lane / 4;
  if constexpr (form.super) {
    load_words<words>(raw.head, heads + pair * words);
    load_words<super_words>(raw.super, supers + pair * super_words);
  } else if constexpr (words > 0) {
    QUERN_UNROLL
    for (int j = 0; j < form.groups(); ++j)
      load_words<words>(raw.head + j * words, heads + j * group_step + pair * words);
  }
}
/// From what HeadCopies has brought.
template <Form form>
QUERN_DEVICE void load_heads(Raw<form>& raw, const uint32_t* unit, int lane) {
  load_heads<form>(raw, unit, kHeadStep<form>, unit + kHeadStep<form>, lane);
}

/// All of a unit from memory.
template <Form form>
QUERN_DEVICE void load_unit(Raw<form>& raw, const Packed& w, int tile, int unit, int lane) {
  load_codes<form>(raw, codes_of<form>(w, tile, unit), lane, FromMemory{});
  const int groups = form.super ? w.units : groups_of(w.units, w.group_shift);
  const int group = form.super ? unit : (2 * unit) >> w.group_shift;
  load_heads<form>(raw, w.heads + (int64_t{tile} * groups + group) * kHeadStep<form>,
                   w.group_shift > 0 ? 0 : kHeadStep<form>,
                   w.supers + (int64_t{tile} * supers_of(w.units) + unit / 4) * kSuperStep<form>, lane);
}

/// s and m of group j of the unit, for rows lane / 4 (half 0) and lane / 4 + 8 (half 1).
template <Form form>
QUERN_DEVICE float scale_of(const Raw<form>& raw, int j, int half) {
  if constexpr (form.bits == 16) return 1.0f;
  if constexpr (!form.super)
    return float_of_half(static_cast<uint16_t>(raw.head[j * form.head_words()] >> (16 * half)));
  const int at = half * form.groups() + j;
  const auto code = static_cast<int8_t>(raw.head[at / 4] >> (8 * (at % 4)));
  return float_of_half(static_cast<uint16_t>(raw.super[0] >> (16 * half))) * static_cast<float>(code);
}
template <Form form>
QUERN_DEVICE float min_of(const Raw<form>& raw, int j, int half) {
  if constexpr (!form.min) return 0.0f;
  if constexpr (!form.super)
    return float_of_half(static_cast<uint16_t>(raw.head[j * form.head_words() + 1] >> (16 * half)));
  const int at = half * form.groups() + j;
  const auto code = static_cast<uint8_t>(raw.head[form.groups() / 2 + at / 4] >> (8 * (at % 4)));
  return float_of_half(static_cast<uint16_t>(raw.super[form.super_words() - 1] >> (16 * half))) *
         static_cast<float>(code);
}

/// s and −m as halves, twice.
template <Form form>
QUERN_DEVICE uint32_t scale_pair(const Raw<form>& raw, int j, int half) {
  if constexpr (!form.super) return twice(raw.head[j * form.head_words()], half);
  const float s = scale_of<form>(raw, j, half);
  return h2_of(s, s);
}
template <Form form>
QUERN_DEVICE uint32_t minus_min_pair(const Raw<form>& raw, int j, int half) {
  if constexpr (!form.super) return twice(raw.head[j * form.head_words() + 1], half) ^ 0x80008000u;
  const float m = -min_of<form>(raw, j, half);
  return h2_of(m, m);
}

/// The codes of a pair, in the low bits of both halves.
template <int bits>
QUERN_DEVICE uint32_t code_pair(const uint32_t* code, int pair) {
  constexpr int low = low_plane(bits), high = high_plane(bits);
  constexpr uint32_t low_mask = ((1u << low) - 1) * 0x10001u;
  uint32_t q = code[pair_word(low, pair)] >> pair_shift(low, pair) & low_mask;
  if constexpr (high > 0) {
    constexpr uint32_t high_mask = ((1u << high) - 1) * 0x10001u;
    q |= (code[low + pair_word(high, pair)] >> pair_shift(high, pair) & high_mask) << low;
  }
  return q;
}

/// Subtracting `zero`, as constants of a matrix. Numbers up to 2048 are exact in halves.
struct Zero {
  uint32_t plain;    // −(1024 + zero), twice
  uint32_t shifted;  // −(64 + zero), twice: for codes that stand four bits higher
  QUERN_DEVICE static Zero of(int zero) {
    const auto z = static_cast<float>(zero);
    return {h2_of(-1024.0f - z, -1024.0f - z), h2_of(-64.0f - z, -64.0f - z)};
  }
};

/// Fragment kt: code − zero, exact (16 bits: the halves themselves).
template <Form form>
QUERN_DEVICE void centered(uint32_t (&a)[4], const Raw<form>& raw, int kt, const Zero& zero) {
  QUERN_UNROLL
  for (int reg = 0; reg < 4; ++reg) {
    const int pair = 4 * kt + reg;
    if constexpr (form.bits == 16) {
      a[reg] = raw.code[pair];
    } else if constexpr (form.bits == 4) {
      // Word kt holds the four pairs; every second one is left four bits up: 1024 + 16q, times 1/16, is
      // 64 + q, exactly.
      const uint32_t word = raw.code[kt] >> (reg / 2 * 8);
      if (reg % 2 == 0)
        a[reg] = h2_fma(and_or(word, 0x000f000fu, kHalf1024), 0x3c003c00u, zero.plain);
      else
        a[reg] = h2_fma(and_or(word, 0x00f000f0u, kHalf1024), 0x2c002c00u, zero.shifted);
    } else {
      a[reg] = h2_fma(code_pair<form.bits>(raw.code, pair) | kHalf1024, 0x3c003c00u, zero.plain);
    }
  }
}

}  // namespace quern::cuda
