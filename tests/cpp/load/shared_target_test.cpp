// Loads into shared memory, as a store's pool is.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "base/size.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "load/pipeline.h"
#include "memory/chunk_pool.h"
#include "memory/collapsing.h"
#include "memory/populate.h"
#include "memory/smaps.h"

namespace sllm {
namespace {

constexpr std::uint64_t kChunk = 4 * kMiB;
constexpr std::uint64_t kBytes = 2 * kChunk + 12345;

class SharedTarget : public ::testing::Test {
 protected:
  void SetUp() override {
    plan_.files.push_back({.path = on_disk_.path(), .identity = {}, .span_crcs = {}, .resident = {}});
    plan_.files[0].identity = File::open(on_disk_.path(), FileAccess::kBuffered).identity();
    // Three chunks, of which the first is the last in the pool.
    plan_.extents = {{0, 0, kChunk, 0, 5 * kChunk}, {0, kChunk, kBytes - kChunk, 0, kChunk}};
    plan_.target_bytes = {pool_.memory().size()};
    target_ = Target::in_host(pool_.memory());
    target_.backing = Backing::kShared;
    testing::evict(on_disk_.path());
  }

  LoadReport run() {
    return load(plan_, {&target_, 1}, options_, [] {});
  }
  void expect_delivered() const {
    for (const Extent& extent : plan_.extents) {
      EXPECT_TRUE(std::equal(bytes_.begin() + static_cast<long>(extent.offset),
                             bytes_.begin() + static_cast<long>(extent.offset + extent.bytes),
                             pool_.memory().begin() + static_cast<long>(extent.destination)));
    }
  }
  bool is_there(std::uint64_t chunk) const {
    std::vector<unsigned char> pages(kChunk / kBlockBytes);
    EXPECT_EQ(::mincore(pool_.memory({chunk, 1}).data(), kChunk, pages.data()), 0);
    return std::any_of(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  }

  std::vector<std::byte> bytes_ = testing::random_bytes(kBytes);
  testing::TemporaryFile on_disk_{bytes_};
  ChunkPool pool_{6 * kChunk, kChunk};
  LoadPlan plan_;
  Target target_;
  LoadOptions options_;
};

TEST_F(SharedTarget, GetsEveryByteAndNoPageButItsOwn) {
  const LoadReport report = run();
  expect_delivered();
  EXPECT_EQ(report.bytes_in_place, kBytes);
  for (const std::uint64_t chunk : {0, 3, 4}) EXPECT_FALSE(is_there(chunk)) << chunk;
}

TEST_F(SharedTarget, IsFilledOutOfThePageCacheAsWell) {
  testing::read_once(on_disk_.path());
  options_.cache = CacheUse::kCopy;
  EXPECT_GT(run().bytes_cached, 0U);
  expect_delivered();
}

TEST_F(SharedTarget, ComesInHugePagesWhereTheKernelCan) {
  if (!testing::can_collapse()) GTEST_SKIP() << "this kernel makes no huge pages of shared memory";
  testing::read_once(on_disk_.path());
  options_.cache = CacheUse::kCopy;
  options_.check_threads = 1;  // another one's copy keeps its pages from being moved
  run();
  expect_delivered();
  EXPECT_GE(testing::mapped_sum(pool_.memory(), "ShmemPmdMapped"), kHugePageBytes);
}

TEST_F(SharedTarget, IsNotFaultedInAheadOfReadsWhereItWasTouched) {
  const std::vector<std::span<std::byte>> untouched = {pool_.memory({0, 1})};
  target_.untouched = untouched;
  const LoadReport report = run();
  expect_delivered();
  EXPECT_EQ(report.prefault_s, 0);
  EXPECT_EQ(report.bytes_huge, 0U);
}

TEST_F(SharedTarget, IsFaultedInAheadOnlyWhereNobodyHasTouchedIt) {
  if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  std::fill_n(pool_.memory({5, 1}).begin(), kChunk, std::byte{1});
  const std::vector<std::span<std::byte>> untouched = {pool_.memory({0, 5})};
  target_.untouched = untouched;
  testing::read_once(on_disk_.path());
  options_.cache = CacheUse::kCopy;  // populates each span before its copy, with no luck in it
  const LoadReport report = run();
  expect_delivered();
  EXPECT_LE(report.bytes_huge, kBytes - kChunk);
}

TEST_F(SharedTarget, IsNeverReplacedByAMappingOfTheFile) {
  for (const CacheUse cache : {CacheUse::kMap, CacheUse::kMapCached}) {
    options_.cache = cache;
    EXPECT_EQ(name_of(testing::error_of([&] { run(); }).code()), "invalid");
  }
}

TEST(Target, KnowsWhereItIsFresh) {
  std::vector<std::byte> memory(100);
  Target target = Target::in_host(memory);
  EXPECT_TRUE(target.is_fresh_at(0, 100));
  const std::vector<std::span<std::byte>> untouched = {std::span(memory).subspan(10, 10),
                                                       std::span(memory).subspan(30, 5)};
  target.untouched = untouched;
  EXPECT_FALSE(target.is_fresh_at(0, 10));
  EXPECT_TRUE(target.is_fresh_at(0, 11));
  EXPECT_TRUE(target.is_fresh_at(19, 1));
  EXPECT_FALSE(target.is_fresh_at(20, 10));
  EXPECT_TRUE(target.is_fresh_at(20, 11));
  EXPECT_FALSE(target.is_fresh_at(35, 65));
}

}  // namespace
}  // namespace sllm
