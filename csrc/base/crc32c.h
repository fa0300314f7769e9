#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace sllm {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the check of every span.

// Continues `previous`, the CRC of the bytes before these. Thread-safe.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);

// The CRC of A followed by B, from crc32c(A), crc32c(B) and the size of B in bytes.
std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes);

// Which of them this processor runs: "sse4.2", "armv8-crc" or "table".
std::string_view crc32c_implementation();

namespace crc32c_detail {

// A register update, without the inversions before and after; what the implementations have in common.
using Update = std::uint32_t (*)(std::uint32_t state, const std::byte* bytes, std::size_t count);

std::uint32_t update_by_table(std::uint32_t state, const std::byte* bytes, std::size_t count);

// Null where this build or this processor lacks the instructions.
Update find_x86_update();
Update find_arm_update();

// Lengths of one lane's run: long ones for bulk, short ones for what is left of a span. Three lanes lie
// within one page, because hardware prefetchers stop at its end and lanes pages apart wait for memory.
inline constexpr std::size_t kLongLaneBytes = 320;
inline constexpr std::size_t kShortLaneBytes = 64;

// The register after `kLongLaneBytes` (or `kShortLaneBytes`) zero bytes.
std::uint32_t shift_long_lane(std::uint32_t state);
std::uint32_t shift_short_lane(std::uint32_t state);

}  // namespace crc32c_detail
}  // namespace sllm
