#pragma once

#include <array>
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

// Which of them this processor runs: "vpclmulqdq", "sse4.2", "armv8-crc" or "table".
std::string_view crc32c_implementation();

namespace crc32c_detail {

// A register update, without the inversions before and after; what the implementations have in common.
using Update = std::uint32_t (*)(std::uint32_t state, const std::byte* bytes, std::size_t count);

std::uint32_t update_by_table(std::uint32_t state, const std::byte* bytes, std::size_t count);

// The polynomials that a reflected CRC's register stands for: bit 31 is the coefficient of x^0.
inline constexpr std::uint32_t kPolynomial = 0x82F63B78;
inline constexpr std::uint32_t kOne = 0x80000000;

// The product of two polynomials modulo the CRC's.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// Multiplying by x^(8 * bytes) is appending that many zero bytes.
constexpr std::uint32_t power_of_x(std::uint64_t power) {
  std::uint32_t result = kOne;
  for (std::uint32_t square = kOne >> 1; power != 0; power >>= 1) {
    if (power & 1) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

// Appends zero bytes to what a register has the CRC of: a multiplication by a constant, by tables.
class Shift {
 public:
  constexpr explicit Shift(std::uint64_t bytes) {
    const std::uint32_t factor = power_of_x(8 * bytes);
    for (std::uint32_t lane = 0; lane < 4; ++lane) {
      for (std::uint32_t value = 0; value < 256; ++value)
        tables_[lane][value] = multiply(factor, value << (8 * lane));
    }
  }
  constexpr std::uint32_t operator()(std::uint32_t state) const {
    return tables_[0][state & 0xFF] ^ tables_[1][(state >> 8) & 0xFF] ^ tables_[2][(state >> 16) & 0xFF] ^
           tables_[3][state >> 24];
  }

 private:
  std::array<std::array<std::uint32_t, 256>, 4> tables_{};
};

// Null where this build or this processor lacks the instructions.
Update find_folding_update();
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
