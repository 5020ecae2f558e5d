#include "backend/cpu/grouped.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/half.h"

namespace quern::cpu {
namespace {

/// Inputs sorted by group, each group padded to whole units; the group of every unit.
std::shared_ptr<const InputOrder> sort_inputs(const GroupedMatrix& m, std::vector<int32_t>& unit_group) {
  std::vector<int32_t> inputs(static_cast<size_t>(m.cols));
  std::iota(inputs.begin(), inputs.end(), 0);
  std::ranges::stable_sort(inputs, {}, [&](int32_t k) { return m.group(k); });
  auto order = std::make_shared<InputOrder>();
  for (size_t i = 0; i < inputs.size();) {
    const int64_t group = m.group(inputs[i]);
    for (; i < inputs.size() && m.group(inputs[i]) == group; ++i) order->source.push_back(inputs[i]);
    while (order->source.size() % kUnit != 0) order->source.push_back(-1);
    unit_group.resize(order->source.size() / kUnit, static_cast<int32_t>(group));
  }
  return order;
}

/// The most units, a divisor of a superblock, such that runs of so many are of one group each.
int shared_units(const std::vector<int32_t>& unit_group) {
  for (int count = kSuperUnits; count > 1; count /= 2) {
    bool same = true;
    for (size_t u = 0; u < unit_group.size() && same; ++u)
      same = unit_group[u] == unit_group[u / static_cast<size_t>(count) * static_cast<size_t>(count)];
    if (same) return count;
  }
  return 1;
}

}  // namespace

GroupedPlan plan_grouped(const GroupedMatrix& m) {
  GroupedPlan plan;
  std::vector<int32_t> unit_group;
  if (m.group_of.empty() && m.cols % kUnit == 0 && m.group_size % kUnit == 0) {
    for (int64_t k = 0; k < m.cols; k += kUnit) unit_group.push_back(static_cast<int32_t>(m.group(k)));
  } else {
    plan.order = sort_inputs(m, unit_group);
  }
  plan.layout.bits = m.bits;
  plan.layout.zero = m.zero.value_or(0);
  plan.layout.has_min = plan.layout.has_zeros = !m.zero.has_value();
  plan.layout.wide_d = m.scale_type != DType::F16;
  plan.layout.d_units = shared_units(unit_group);
  plan.layout.cols = static_cast<int64_t>(unit_group.size()) * kUnit;
  for (size_t u = 0; u < unit_group.size(); u += static_cast<size_t>(plan.layout.d_units))
    plan.d_group.push_back(unit_group[u]);
  return plan;
}

uint8_t* put_grouped_header(const PackGrouped& job, int64_t first_unit, int64_t units, uint8_t* out) {
  const GroupedMatrix& m = *job.matrix;
  const PackedLayout& layout = job.plan->layout;
  const int64_t rows = std::min<int64_t>(kTileRows, m.rows - job.first);
  const int32_t* group = job.plan->d_group.data() + first_unit / layout.d_units;
  const int64_t count = layout.d_count(units);
  std::memset(out, 0, static_cast<size_t>(layout.header_bytes(units)));
  for (int64_t i = 0; i < count; ++i, out += layout.d_bytes()) {
    if (!layout.wide_d) {
      std::memcpy(out, m.scales + 2 * (group[i] * m.rows + job.first), static_cast<size_t>(2 * rows));
      continue;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float d = m.scale_at(group[i], job.first + r);
      std::memcpy(out + 4 * r, &d, sizeof d);
    }
  }
  if (!layout.has_zeros) return out;
  for (int64_t i = 0; i < count; ++i, out += kTileRows)
    for (int64_t r = 0; r < rows; ++r) out[r] = static_cast<uint8_t>(m.zero_at(group[i], job.first + r));
  return out;
}

void pack_grouped_reference(const PackGrouped& job) {
  const GroupedMatrix& m = *job.matrix;
  const PackedLayout& layout = job.plan->layout;
  const int64_t rows = std::min<int64_t>(kTileRows, m.rows - job.first);
  uint8_t* out = job.out;
  for (int64_t u = 0; u < layout.units(); ++u, out += layout.unit_bytes()) {
    if (u % kSuperUnits == 0)
      out = put_grouped_header(job, u, std::min<int64_t>(kSuperUnits, layout.units() - u), out);
    uint8_t code[8][64] = {};
    for (int i = 0; i < kUnit; ++i) {
      const int64_t k = job.plan->input(u * kUnit + i);
      for (int64_t r = 0; r < rows && k >= 0; ++r)
        code[i / 4][4 * r + i % 4] = static_cast<uint8_t>(m.code_at(job.first + r, k));
    }
    put_unit(layout.bits, code, out);
  }
}

}  // namespace quern::cpu
