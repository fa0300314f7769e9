#include "memory/mapped_region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/clock.h"
#include "base/size.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/chunk_pool.h"
#include "memory/forked_child.h"
#include "memory/populate.h"
#include "memory/smaps.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::ForkedChild;
using testing::mapped_sum;
using Pieces = std::vector<RegionPiece>;

constexpr std::uint64_t kChunk = 4 * kMiB;
constexpr std::uint64_t kPage = kBlockBytes;
constexpr ChunkRange kAll{0, 4};

class MappedRegionTest : public ::testing::Test {
 protected:
  void SetUp() override { std::copy(bytes_.begin(), bytes_.end(), pool_.memory().begin()); }

  std::shared_ptr<MappedRegion> map(const Pieces& pieces, std::uint64_t bytes) const {
    return MappedRegion::map(pool_.open_lease(7, std::span(&kAll, 1)), pieces, bytes);
  }
  std::string code(const Pieces& pieces, std::uint64_t bytes) const {
    return std::string(name_of(error_of([&] { map(pieces, bytes); }).code()));
  }
  // Each piece as the pool has it, and zeros around them.
  std::vector<std::byte> expected(const Pieces& pieces, std::uint64_t bytes) const {
    std::vector<std::byte> region(bytes);
    for (const RegionPiece& piece : pieces) {
      std::copy_n(bytes_.begin() + static_cast<long>(piece.pool_offset), piece.bytes,
                  region.begin() + static_cast<long>(piece.destination));
    }
    return region;
  }
  // The pool again and again.
  std::shared_ptr<MappedRegion> map_large() const {
    Pieces pieces;
    for (std::uint64_t i = 0; i < 128; ++i) pieces.push_back({i * bytes_.size(), 0, bytes_.size()});
    return map(pieces, 128 * bytes_.size());
  }
  static std::vector<std::byte> contents(const MappedRegion& region) {
    return {region.bytes().begin(), region.bytes().end()};
  }
  static bool becomes_resident(const MappedRegion& region, std::uint64_t bytes) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (mapped_sum(region.bytes(), "Rss") < bytes && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    return mapped_sum(region.bytes(), "Rss") >= bytes;
  }

  std::vector<std::byte> bytes_ = testing::random_bytes(kAll.count * kChunk);
  ChunkPool pool_{kAll.count * kChunk, kChunk};
};

TEST_F(MappedRegionTest, ShowsScatteredChunksAsOneBuffer) {
  const Pieces pieces{{0, 3 * kChunk, kChunk}, {kChunk, 0, kChunk}, {2 * kChunk, 2 * kChunk, 5000}};
  const auto region = map(pieces, 2 * kChunk + 5000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region->bytes().data()) % kHugePageBytes, 0U);
  EXPECT_EQ(region->bytes().size(), 2 * kChunk + 5000);
  EXPECT_EQ(region->mapped_bytes(), 2 * kChunk + 5000);
  EXPECT_TRUE(contents(*region) == expected(pieces, 2 * kChunk + 5000));
}

TEST_F(MappedRegionTest, CopiesWhatLiesAtNoPageAndLeavesGapsZero) {
  const Pieces pieces{{7 * kPage, 5 * kPage, 3 * kPage},
                      {10 * kPage + 64, 64, 1000},
                      {20 * kPage, 100, kPage},
                      {kPage, 9, 1}};
  const auto region = map(pieces, 30 * kPage);
  EXPECT_EQ(region->mapped_bytes(), 3 * kPage);
  EXPECT_TRUE(contents(*region) == expected(pieces, 30 * kPage));
}

TEST_F(MappedRegionTest, NeighboursTakeOneMapping) {
  const auto region =
      map({{kPage, 3 * kPage, kPage}, {0, 2 * kPage, kPage}, {2 * kPage, 4 * kPage, 10}}, 12'000);
  const auto address = reinterpret_cast<std::uintptr_t>(region->bytes().data());
  std::ifstream table("/proc/self/maps");
  int mappings = 0;
  for (std::string line; std::getline(table, line);) {
    const auto begin = std::stoull(line, nullptr, 16);
    mappings += begin >= address && begin < address + region->bytes().size();
  }
  EXPECT_EQ(mappings, 1);
}

TEST_F(MappedRegionTest, IsWritableAndKeepsWhatIsWrittenToItself) {
  const Pieces pieces{{0, 0, kChunk}};
  const auto region = map(pieces, kChunk);
  const auto other = map(pieces, kChunk);
  std::fill(region->bytes().begin(), region->bytes().end(), std::byte{1});
  EXPECT_TRUE(contents(*other) == expected(pieces, kChunk));
  EXPECT_TRUE(std::equal(bytes_.begin(), bytes_.end(), pool_.memory().begin()));
}

TEST_F(MappedRegionTest, SharesItsPagesUntilTheyAreWrittenTo) {
  if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_READ";
  const auto region = map({{0, kChunk, 3 * kChunk}}, 3 * kChunk);
  EXPECT_TRUE(becomes_resident(*region, 3 * kChunk));
  EXPECT_EQ(mapped_sum(region->bytes(), "Anonymous"), 0U);
  // The pool's own mapping is the other half.
  EXPECT_EQ(mapped_sum(region->bytes(), "Pss"), 3 * kChunk / 2);
  region->bytes()[kChunk] = std::byte{1};
  EXPECT_EQ(mapped_sum(region->bytes(), "Anonymous"), kPage);
}

TEST_F(MappedRegionTest, ClosesTheDescriptorWhateverHappens) {
  const auto before = testing::open_descriptors();
  const auto region = map({{0, 0, kPage}}, kPage);
  EXPECT_EQ(code({{0, 0, kPage}}, 1), "invalid");
  EXPECT_EQ(testing::open_descriptors(), before);
}

TEST_F(MappedRegionTest, HoldsItsLeaseAsLongAsItLivesAndNoLonger) {
  auto region = map({{0, 0, kPage}, {kPage, 100, 17}}, 2 * kPage);
  EXPECT_TRUE(pool_.is_alive(7));
  EXPECT_TRUE(pool_.is_leased({3, 1}));
  region.reset();
  EXPECT_FALSE(pool_.is_alive(7));
  EXPECT_FALSE(pool_.is_leased(kAll));
}

TEST_F(MappedRegionTest, LetsGoAtOnceWhereNothingIsMapped) {
  const auto region = map({{0, 1, 1000}}, 1000);
  EXPECT_FALSE(pool_.is_alive(7));
  EXPECT_TRUE(contents(*region) == expected({{0, 1, 1000}}, 1000));
}

TEST_F(MappedRegionTest, RefusesPiecesOutsideAndInEachOthersWay) {
  const std::uint64_t end = kAll.count * kChunk;
  EXPECT_EQ(code({{0, end, 1}}, kPage), "invalid");
  EXPECT_EQ(code({{0, end - kPage, kPage + 1}}, 4 * kPage), "invalid");
  EXPECT_EQ(code({{0, ~std::uint64_t{0}, 2}}, kPage), "invalid");
  EXPECT_EQ(code({{0, 0, kPage + 1}}, kPage), "invalid");
  EXPECT_EQ(code({{~std::uint64_t{0}, 0, 2}}, kPage), "invalid");
  EXPECT_EQ(code({{0, 0, 2 * kPage}, {kPage, 0, kPage}}, 4 * kPage), "invalid");
  EXPECT_EQ(code({{kPage, 0, kPage}, {0, 0, 2 * kPage}}, 4 * kPage), "invalid");
  EXPECT_EQ(code({{100, 0, 10}, {109, 0, 10}}, 4 * kPage), "invalid");
  // The rest of a mapped piece's last page is the pool's.
  EXPECT_EQ(code({{0, 0, 100}, {200, 200, 10}}, kPage), "invalid");
  EXPECT_FALSE(pool_.is_alive(7));
}

TEST_F(MappedRegionTest, RefusesADescriptorOfAnythingElse) {
  const auto code_of = [](UniqueFd fd) {
    const RegionPiece piece{0, 0, 1};
    return name_of(error_of([&] { MappedRegion::map(std::move(fd), std::span(&piece, 1), 1); }).code());
  };
  const testing::TemporaryFile file(testing::random_bytes(kPage));
  EXPECT_EQ(code_of(UniqueFd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC))), "invalid");
  EXPECT_EQ(code_of(UniqueFd(::memfd_create("unsealed", MFD_CLOEXEC))), "invalid");
  EXPECT_EQ(code_of(UniqueFd()), "io");
}

TEST_F(MappedRegionTest, NothingIsNothing) {
  const auto region = map({{0, 0, 0}}, 0);
  EXPECT_TRUE(region->bytes().empty());
  EXPECT_EQ(region->mapped_bytes(), 0U);
}

TEST_F(MappedRegionTest, StopsItsThreadWhenItGoes) {
  const auto threads = testing::running_threads();
  for (int i = 0; i < 20; ++i) map({{0, 0, kAll.count * kChunk}}, kAll.count * kChunk);
  EXPECT_TRUE(testing::threads_come_down_to(threads));
}

TEST_F(MappedRegionTest, StopsBeforeEveryPageIsThere) {
  if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_READ";
  const double before_s = process_cpu_s();
  const auto whole = map_large();
  EXPECT_TRUE(becomes_resident(*whole, whole->bytes().size()));
  const double whole_s = process_cpu_s() - before_s;
  for (int i = 0; i < 4; ++i) map_large();
  EXPECT_LT(process_cpu_s() - before_s - whole_s, whole_s);
}

TEST_F(MappedRegionTest, AForkedChildReadsItAndLetsItGo) {
  auto region = map_large();  // the child is forked while the thread is at work
  ForkedChild child([&](const ForkedChild::Conversation& parent) {
    parent.await();
    const bool is_whole = std::equal(bytes_.begin(), bytes_.end(), region->bytes().begin());
    region.reset();
    return is_whole ? 0 : 1;
  });
  region.reset();
  EXPECT_TRUE(pool_.is_alive(7));
  child.say();
  EXPECT_EQ(child.wait(), 0);
  EXPECT_FALSE(pool_.is_alive(7));
}

}  // namespace
}  // namespace sllm
