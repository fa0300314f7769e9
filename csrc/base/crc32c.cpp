#include "base/crc32c.h"

#include <array>

namespace sllm {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // reflected: bit 31 is the coefficient of x^0
constexpr std::uint32_t kOne = 0x80000000;         // x^0
constexpr std::uint32_t kByte = 0x00800000;        // x^8: one zero byte

// The product of two polynomials modulo the CRC's.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// x^(8 * bytes): multiplying by it is appending that many zero bytes.
constexpr std::uint32_t zeros(std::uint64_t bytes) {
  std::uint32_t result = kOne;
  for (std::uint32_t square = kByte; bytes != 0; bytes >>= 1) {
    if (bytes & 1) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

using ByteTable = std::array<std::uint32_t, 256>;

// Multiplication by a constant, a table a byte of the operand.
class Shift {
 public:
  constexpr explicit Shift(std::uint64_t bytes) {
    const std::uint32_t factor = zeros(bytes);
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
  std::array<ByteTable, 4> tables_{};
};

const Shift kShiftLong{crc32c_detail::kLongLaneBytes};
const Shift kShiftShort{crc32c_detail::kShortLaneBytes};
constexpr Shift kShiftOneByte{1};

crc32c_detail::Update choose_update() {
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
  return multiply(zeros(second_bytes), first) ^ second;
}

std::string_view crc32c_implementation() {
  if (kUpdate == crc32c_detail::update_by_table) return "table";
  return kUpdate == crc32c_detail::find_x86_update() ? "sse4.2" : "armv8-crc";
}

}  // namespace sllm
