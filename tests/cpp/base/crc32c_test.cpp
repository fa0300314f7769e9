#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace sllm {
namespace {

using Bytes = std::vector<std::byte>;
using crc32c_detail::Update;

Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

// Bytes without a pattern that a shifted lane could repeat; the multiplier is Knuth's for 64 bits.
Bytes scrambled(std::size_t count) {
  Bytes bytes(count);
  std::uint64_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

// One bit at a time, straight from the definition in RFC 3720 B.4: the oracle of all the rest.
std::uint32_t crc32c_by_bits(std::span<const std::byte> bytes) {
  std::uint32_t state = ~0U;
  for (const std::byte byte : bytes) {
    state ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) ? 0x82F63B78U : 0U);
  }
  return ~state;
}

std::vector<std::pair<const char*, Update>> accelerated_updates() {
  std::vector<std::pair<const char*, Update>> updates;
  if (const Update update = crc32c_detail::find_x86_update()) updates.emplace_back("x86", update);
  if (const Update update = crc32c_detail::find_folding_update()) updates.emplace_back("folding", update);
  if (const Update update = crc32c_detail::find_arm_update()) updates.emplace_back("arm", update);
  return updates;
}

TEST(Crc32c, GivesTheVectorsOfRfc3720) {
  Bytes ascending(32);
  Bytes descending(32);
  for (std::size_t i = 0; i < 32; ++i) {
    ascending[i] = static_cast<std::byte>(i);
    descending[i] = static_cast<std::byte>(31 - i);
  }
  EXPECT_EQ(crc32c(Bytes(32, std::byte{0x00})), 0x8A9136AAU);
  EXPECT_EQ(crc32c(Bytes(32, std::byte{0xFF})), 0x62A8AB43U);
  EXPECT_EQ(crc32c(ascending), 0x46DD794EU);
  EXPECT_EQ(crc32c(descending), 0x113FDB5CU);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283U);
}

TEST(Crc32c, OfNothingIsThePreviousOne) {
  EXPECT_EQ(crc32c({}), 0U);
  EXPECT_EQ(crc32c({}, 0xE3069283U), 0xE3069283U);
}

TEST(Crc32c, TableAgreesWithTheDefinition) {
  const Bytes bytes = scrambled(300);
  for (std::size_t count = 0; count <= bytes.size(); ++count) {
    const std::span<const std::byte> part(bytes.data(), count);
    ASSERT_EQ(~crc32c_detail::update_by_table(~0U, part.data(), count), crc32c_by_bits(part))
        << count << " bytes";
  }
}

TEST(Crc32c, EveryImplementationAgreesWithTheTableAtAllLengthsAndAlignments) {
  constexpr std::size_t kLongest = 2000;
  constexpr std::size_t kAlignments = 8;
  const Bytes bytes = scrambled(kLongest + kAlignments);
  for (const auto& [name, update] : accelerated_updates()) {
    for (std::size_t start = 0; start < kAlignments; ++start) {
      for (std::size_t count = 0; count <= kLongest; ++count) {
        ASSERT_EQ(update(0x12345678U, bytes.data() + start, count),
                  crc32c_detail::update_by_table(0x12345678U, bytes.data() + start, count))
            << name << ", " << count << " bytes at " << start;
      }
    }
  }
}

TEST(Crc32c, EveryImplementationAgreesWithTheTableInBulk) {
  const Bytes bytes = scrambled(200'000);
  for (const auto& [name, update] : accelerated_updates()) {
    for (const std::size_t start : {0, 1, 31, 64}) {
      for (std::size_t count = 60'000; count <= bytes.size() - start; count += 9'973) {
        ASSERT_EQ(update(0x12345678U, bytes.data() + start, count),
                  crc32c_detail::update_by_table(0x12345678U, bytes.data() + start, count))
            << name << ", " << count << " bytes at " << start;
      }
    }
  }
}

TEST(Crc32c, IsTheOneThatTheProcessorHas) {
  const char* expected = "table";
  if (crc32c_detail::find_arm_update()) expected = "armv8-crc";
  if (crc32c_detail::find_x86_update()) expected = "sse4.2";
  if (crc32c_detail::find_folding_update()) expected = "vpclmulqdq";
  EXPECT_EQ(crc32c_implementation(), expected);
}

TEST(Crc32c, ContinuesAndCombinesAtEveryCut) {
  const Bytes bytes = scrambled(1200);
  const std::uint32_t whole = crc32c(bytes);
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    const std::span<const std::byte> first(bytes.data(), cut);
    const std::span<const std::byte> second(bytes.data() + cut, bytes.size() - cut);
    ASSERT_EQ(crc32c(second, crc32c(first)), whole) << "cut at " << cut;
    ASSERT_EQ(crc32c_combine(crc32c(first), crc32c(second), second.size()), whole) << "cut at " << cut;
  }
}

TEST(Crc32c, CombinesOverMoreZerosThanMemoryHolds) {
  // Appending 2^40 zero bytes at once is appending 2^20 of them, 2^20 times, in doubling steps.
  const std::uint32_t first = crc32c(bytes_of("123456789"));
  const Bytes zeros(1U << 20);
  std::uint32_t zeros_crc = crc32c(zeros);
  std::uint64_t count = zeros.size();
  for (int doubling = 0; doubling < 20; ++doubling, count *= 2) {
    zeros_crc = crc32c_combine(zeros_crc, zeros_crc, count);
  }
  const std::uint32_t half = crc32c_combine(first, zeros_crc, count);
  EXPECT_EQ(crc32c_combine(half, zeros_crc, count),
            crc32c_combine(first, crc32c_combine(zeros_crc, zeros_crc, count), 2 * count));
}

TEST(Crc32c, NoticesEachFlippedBit) {
  Bytes bytes = scrambled(1000);
  const std::uint32_t intact = crc32c(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_NE(crc32c(bytes), intact) << "bit " << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

}  // namespace
}  // namespace sllm
