#include "base/crc32c.h"

namespace sllm {
namespace {

using crc32c_detail::multiply;
using crc32c_detail::power_of_x;
using crc32c_detail::Shift;

const Shift kShiftLong{crc32c_detail::kLongLaneBytes};
const Shift kShiftShort{crc32c_detail::kShortLaneBytes};
constexpr Shift kShiftOneByte{1};

crc32c_detail::Update choose_update() {
  if (auto update = crc32c_detail::find_folding_update()) return update;
  if (auto update = crc32c_detail::find_x86_update()) return update;
  if (auto update = crc32c_detail::find_arm_update()) return update;
  return crc32c_detail::update_by_table;
}

const crc32c_detail::Update kUpdate = choose_update();

}  // namespace

namespace crc32c_detail {

std::uint32_t update_by_table(std::uint32_t state, const std::byte* bytes, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    state = kShiftOneByte(state ^ std::to_integer<std::uint32_t>(bytes[i]));
  }
  return state;
}

std::uint32_t shift_long_lane(std::uint32_t state) { return kShiftLong(state); }
std::uint32_t shift_short_lane(std::uint32_t state) { return kShiftShort(state); }

}  // namespace crc32c_detail

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous) {
  return ~kUpdate(~previous, bytes.data(), bytes.size());
}

std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes) {
  // The inversions before and after cancel out between the two.
  return multiply(power_of_x(8 * second_bytes), first) ^ second;
}

std::string_view crc32c_implementation() {
  if (kUpdate == crc32c_detail::update_by_table) return "table";
  if (kUpdate == crc32c_detail::find_folding_update()) return "vpclmulqdq";
  return kUpdate == crc32c_detail::find_x86_update() ? "sse4.2" : "armv8-crc";
}

}  // namespace sllm
