#include "store/pool_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <tuple>

#include "base/size.h"
#include "device/cuda_device.h"
#include "device/device_bytes.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "load/pipeline.h"
#include "memory/host_buffer.h"
#include "store/pool_pins.h"

namespace sllm {
namespace {

using testing::error_of;
using Pieces = std::vector<PooledPiece>;
using Extents = std::vector<Extent>;
using Bytes = std::map<std::uint64_t, std::uint64_t>;  // destination to offset in the pool

constexpr std::uint64_t kChunk = 4 * kMiB;

// Calls `visit` with each byte that the extent wants: its destination and its offset.
template <typename Visit>
void for_each_byte(const Extent& extent, Visit visit) {
  const std::uint64_t row_bytes = extent.is_rows() ? extent.row_bytes : extent.bytes;
  for (std::uint64_t row = 0; row < extent.rows(); ++row) {
    for (std::uint64_t i = 0; i < row_bytes; ++i) {
      visit(extent.destination + row * extent.to_pitch + i, extent.offset + row * extent.from_pitch + i);
    }
  }
}

// Byte by byte; nothing where a byte is in no piece.
std::optional<Bytes> wanted(const Pieces& pieces, const Extents& extents) {
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> pooled;
  for (const PooledPiece& piece : pieces) {
    for (std::uint64_t i = 0; i < piece.bytes; ++i)
      pooled[{piece.file, piece.offset + i}] = piece.pool_offset + i;
  }
  Bytes bytes;
  bool is_whole = true;
  for (const Extent& extent : extents) {
    for_each_byte(extent, [&](std::uint64_t destination, std::uint64_t offset) {
      const auto found = pooled.find({extent.file, offset});
      is_whole = is_whole && found != pooled.end();
      if (is_whole) bytes[destination] = found->second;
    });
  }
  return is_whole ? std::optional(bytes) : std::nullopt;
}

Bytes planned(const LoadPlan& plan) {
  Bytes bytes;
  for (const Extent& extent : plan.extents) {
    EXPECT_EQ(extent.offset / kChunk, (extent.offset + extent.bytes - 1) / kChunk);
    for_each_byte(extent, [&](std::uint64_t destination, std::uint64_t offset) {
      EXPECT_TRUE(bytes.emplace(destination, offset).second);
    });
  }
  return bytes;
}

class Cases {
 public:
  explicit Cases(unsigned seed) : random_(seed) {}

  // Files in pieces, mostly without holes, scattered over the pool around a chunk's end.
  Pieces pieces() {
    Pieces made;
    const std::uint64_t files = 1 + below(3);
    for (std::uint64_t file = 0; file < files; ++file) {
      std::uint64_t offset = below(3) * 20;
      for (std::uint64_t count = 6 + below(12); count > 0; --count) {
        made.push_back({file, offset, 1 + below(60), 0});
        offset += made.back().bytes + (below(40) == 0 ? 1 + below(9) : 0);
      }
    }
    place(made);
    return made;
  }

  Extents extents(std::uint64_t& target_bytes) {
    Extents made(1 + below(5));
    for (Extent& extent : made) {
      extent = {.file = below(3), .offset = 30 + below(150), .bytes = 1 + below(80)};
      if (below(3) > 0) lay_in_rows(extent);
      extent.destination = target_bytes;
      target_bytes += extent.is_rows() ? extent.rows() * extent.to_pitch : extent.bytes;
    }
    std::sort(made.begin(), made.end(), [](const Extent& a, const Extent& b) {
      return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
    });
    return made;
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  void place(Pieces& made) {
    std::vector<PooledPiece*> order;
    for (PooledPiece& piece : made) order.push_back(&piece);
    std::shuffle(order.begin(), order.end(), random_);
    std::uint64_t next = kChunk - below(400);
    for (PooledPiece* piece : order) {
      piece->pool_offset = next;
      next += piece->bytes + below(2) * below(30);
    }
  }

  void lay_in_rows(Extent& extent) {
    extent.row_bytes = 1 + below(20);
    extent.from_pitch = extent.row_bytes + below(30);
    extent.to_pitch = extent.row_bytes + below(10);
    extent.bytes = below(6) * extent.from_pitch + extent.row_bytes;
  }

  std::mt19937_64 random_;
};

class PoolCopies : public ::testing::Test {
 protected:
  LoadPlan plan(const Pieces& pieces, const Extents& extents, std::uint64_t target_bytes) const {
    return plan_pool_copies(pieces, extents, pool_, target_bytes);
  }
  std::string code(const Pieces& pieces, const Extents& extents, std::uint64_t target_bytes) const {
    return std::string(name_of(error_of([&] { plan(pieces, extents, target_bytes); }).code()));
  }

  ChunkPool pool_{2 * kChunk, kChunk};
};

TEST_F(PoolCopies, BringEveryWantedByteOrAreRefused) {
  Cases cases(1);
  int whole = 0;
  for (int i = 0; i < 6000; ++i) {
    const Pieces pieces = cases.pieces();
    std::uint64_t target_bytes = 0;
    const Extents extents = cases.extents(target_bytes);
    const auto expected = wanted(pieces, extents);
    if (!expected) {
      ASSERT_EQ(code(pieces, extents, target_bytes), "invalid") << "case " << i;
      continue;
    }
    const LoadPlan made = plan(pieces, extents, target_bytes);
    ASSERT_NO_THROW(validate(made));
    ASSERT_EQ(planned(made), *expected) << "case " << i;
    ++whole;
  }
  EXPECT_GT(whole, 1000);
}

TEST_F(PoolCopies, ReadOnlyThePool) {
  const LoadPlan made = plan({{0, 0, 10, 100}}, {{0, 0, 10}}, 10);
  ASSERT_EQ(made.files.size(), 1U);
  EXPECT_EQ(made.files[0].resident.data(), pool_.memory().data());
  EXPECT_EQ(made.files[0].identity.bytes, pool_.memory().size());
  EXPECT_EQ(made.target_bytes, std::vector<std::uint64_t>{10});
}

TEST_F(PoolCopies, AreRefusedWhereAnExtentLeavesItsTargetOrAsksForMoreThanItHolds) {
  const Pieces pieces = {{0, 0, 100, 0}, {0, 100, 100, 500}};
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, 1}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, ~std::uint64_t{0}}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 10, 1, 0}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{1, 0, 10, 0, 0}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, 195, 10, 0, 0}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, ~std::uint64_t{0}, 10, 0, 0}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 8, 0, 0}, {0, 50, 8, 0, 2}}, 10), "invalid");
  EXPECT_EQ(code(pieces, {{0, 50, 2, 0, 0}, {0, 0, 2, 0, 2}}, 10), "invalid");
}

TEST_F(PoolCopies, AreRefusedWhereRowsMakeNoSense) {
  const Pieces pieces = {{0, 0, 100, 0}};
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, 0, 5, 0, 5}}, 100), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, 0, 5, 4, 5}}, 100), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, 0, 5, 5, 4}}, 100), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 0, 0, 0, 5, 5, 5}}, 100), "invalid");
  EXPECT_EQ(code(pieces, {{0, 0, 10, 0, 0, 5, 5, ~std::uint64_t{0}}}, 100), "invalid");
}

TEST_F(PoolCopies, AreRefusedForPiecesThatMakeNoSense) {
  EXPECT_EQ(code({{0, 0, 10, 2 * kChunk - 9}}, {}, 10), "invalid");
  EXPECT_EQ(code({{0, 0, 10, ~std::uint64_t{0}}}, {}, 10), "invalid");
  EXPECT_EQ(code({{0, 0, 10, 0}, {0, 9, 10, 50}}, {}, 10), "invalid");
  EXPECT_EQ(code({{1, 0, 10, 0}, {0, 10, 10, 50}}, {}, 10), "invalid");
  EXPECT_EQ(code({{0, ~std::uint64_t{0}, 10, 0}}, {}, 10), "invalid");
}

class PoolCopiesOntoADevice : public testing::SimulatedTest {};

TEST_F(PoolCopiesOntoADevice, DeliverRowsAndRunsFromPinnedChunks) {
  ChunkPool pool(4 * kChunk, kChunk);
  const auto file = testing::random_bytes(3 * kChunk);
  const Pieces pieces = {{0, 0, kChunk, 2 * kChunk}, {0, kChunk, 2 * kChunk, 0}};
  for (const PooledPiece& piece : pieces) {
    std::copy_n(file.begin() + static_cast<long>(piece.offset), piece.bytes,
                pool.memory().begin() + static_cast<long>(piece.pool_offset));
  }
  const auto device = find_cuda_device(driver_, "cuda:0");
  pool.note_touched({0, 3});
  PoolPins pins(pool, device);
  pins.pin({0, 4});
  constexpr std::uint64_t kRow = 5000;
  constexpr std::uint64_t kRows = 1000;
  const Extents extents = {{0, 77, kMiB, 0, 0},
                           {0, kMiB, (kRows - 1) * 2 * kRow + kRow, 0, kMiB, kRow, 2 * kRow, kRow}};
  const auto memory = device->allocate(kMiB + kRows * kRow, AllocationKind::kPlain);
  const Target target{.device = device.get(), .start = memory->address(), .bytes = memory->bytes()};
  const LoadPlan made = plan_pool_copies(pieces, extents, pool, memory->bytes());
  const LoadReport report = load(made, {&target, 1}, {}, [] {});
  EXPECT_EQ(simulation_.count("pageable_copies"), 0);
  EXPECT_EQ(report.bytes_to_devices, memory->bytes());
  std::vector<std::byte> expected(memory->bytes());
  for (const Extent& extent : extents) {
    for_each_byte(extent, [&](std::uint64_t to, std::uint64_t from) { expected[to] = file[from]; });
  }
  EXPECT_TRUE(testing::get(*device, memory->address(), memory->bytes()) == expected);
}

}  // namespace
}  // namespace sllm
