#include "load/cutting.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace sllm {
namespace {

using Bytes = std::map<std::uint64_t, std::uint64_t>;  // destination to offset in the file

// Byte by byte, as the extent's declaration says.
Bytes wanted(const Extent& extent) {
  Bytes bytes;
  const std::uint64_t row_bytes = extent.is_rows() ? extent.row_bytes : extent.bytes;
  for (std::uint64_t row = 0; row < extent.rows(); ++row) {
    for (std::uint64_t i = 0; i < row_bytes; ++i) {
      bytes[extent.destination + row * extent.to_pitch + i] = extent.offset + row * extent.from_pitch + i;
    }
  }
  return bytes;
}

// What the pieces of reads that end at these places bring, and at most three a read.
Bytes brought(const Extent& extent, const std::vector<std::uint64_t>& ends) {
  Bytes bytes;
  std::uint64_t begin = 0;
  for (const std::uint64_t end : ends) {
    std::vector<Piece> pieces;
    if (end > extent.offset && begin < extent.offset + extent.bytes) cut_extent(extent, begin, end, pieces);
    EXPECT_LE(pieces.size(), 3U);
    for (const Piece& piece : pieces) {
      EXPECT_GT(piece.bytes, 0U);
      EXPECT_LE(piece.from + (piece.rows - 1) * piece.from_pitch + piece.bytes, end - begin);
      for (std::uint64_t i = 0; i < piece.rows * piece.bytes; ++i) {
        const std::uint64_t row = i / piece.bytes;
        const bool is_first = bytes
                                  .emplace(piece.destination + row * piece.to_pitch + i % piece.bytes,
                                           begin + piece.from + row * piece.from_pitch + i % piece.bytes)
                                  .second;
        EXPECT_TRUE(is_first);
      }
    }
    begin = end;
  }
  return bytes;
}

TEST(CutExtent, BringsEveryByteOnceWhereverReadsEnd) {
  std::mt19937_64 random(1);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int i = 0; i < 3000; ++i) {
    Extent extent{.offset = below(50), .bytes = 1 + below(200), .destination = below(30)};
    if (below(4) > 0) {
      extent.row_bytes = 1 + below(20);
      extent.from_pitch = extent.row_bytes + below(20);
      extent.to_pitch = extent.row_bytes + below(20);
      extent.bytes = below(10) * extent.from_pitch + extent.row_bytes;
    }
    std::vector<std::uint64_t> ends;
    const std::uint64_t stride = 1 + below(100);
    for (std::uint64_t end = stride; ends.empty() || ends.back() < extent.offset + extent.bytes;
         end += stride) {
      ends.push_back(end);
    }
    ASSERT_EQ(brought(extent, ends), wanted(extent)) << "case " << i;
  }
}

}  // namespace
}  // namespace sllm
