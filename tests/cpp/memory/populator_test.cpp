// What a populator does to shared memory; prefaulter_test.cpp has its private kind.
#include "memory/populator.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/size.h"
#include "io/temporary_file.h"
#include "memory/chunk_pool.h"
#include "memory/collapsing.h"
#include "memory/populate.h"
#include "memory/smaps.h"

namespace sllm {
namespace {

constexpr std::uint64_t kChunk = 4 * kMiB;

std::size_t pages_there(std::span<std::byte> memory) {
  std::vector<unsigned char> pages(memory.size() / kBlockBytes);
  EXPECT_EQ(::mincore(memory.data(), memory.size(), pages.data()), 0);
  return static_cast<std::size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; }));
}

class SharedMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  }
  std::span<std::byte> memory() const { return pool_.memory(); }

  ChunkPool pool_{4 * kChunk, kChunk};
};

TEST_F(SharedMemory, ComesWithEveryPageOfThePart) {
  Populator populator(memory(), Backing::kShared);
  for (std::size_t at = 0; at < memory().size(); at += kChunk)
    populator.populate(memory().subspan(at, kChunk));
  EXPECT_EQ(pages_there(memory()), memory().size() / kBlockBytes);
}

TEST_F(SharedMemory, ComesInHugePagesWhereTheKernelCan) {
  if (!testing::can_collapse()) GTEST_SKIP() << "this kernel makes no huge pages of shared memory";
  Populator populator(memory(), Backing::kShared);
  populator.populate(memory().first(2 * kChunk));
  EXPECT_EQ(populator.huge_bytes(), 2 * kChunk);
  EXPECT_EQ(testing::mapped_sum(memory(), "ShmemPmdMapped"), 2 * kChunk);
}

TEST_F(SharedMemory, IsLeftUntouchedOutsideThePartAndItsHugePages) {
  Populator populator(memory(), Backing::kShared);
  populator.populate(memory().subspan(kChunk + kBlockBytes, kMiB));
  EXPECT_EQ(pages_there(memory().first(kChunk)), 0U);
  EXPECT_EQ(pages_there(memory().subspan(kChunk + kHugePageBytes)), 0U);
  EXPECT_EQ(pages_there(memory().subspan(kChunk + kBlockBytes, kMiB)), kMiB / kBlockBytes);
}

TEST_F(SharedMemory, IsLeftUntouchedOutsideThePopulatorsOwn) {
  const auto own = memory().subspan(kMiB, 5 * kMiB);
  Populator populator(own, Backing::kShared);
  populator.populate(own);
  EXPECT_EQ(pages_there(memory().first(kMiB)), 0U);
  EXPECT_EQ(pages_there(memory().subspan(6 * kMiB)), 0U);
  EXPECT_LE(populator.huge_bytes(), 4 * kMiB);
  EXPECT_EQ(pages_there(own), own.size() / kBlockBytes);
}

TEST_F(SharedMemory, PartsSmallerThanAHugePageComeAsWell) {
  Populator populator(memory(), Backing::kShared);
  populator.populate(memory().first(0));
  for (std::size_t at = 0; at < kChunk; at += kBlockBytes / 2) populator.populate(memory().subspan(at, 1));
  EXPECT_EQ(pages_there(memory().first(kChunk)), kChunk / kBlockBytes);
}

// Reads land while their memory is faulted in, and in places that have been.
TEST_F(SharedMemory, KeepsWhatOthersWriteMeanwhile) {
  const auto bytes = testing::random_bytes(memory().size());
  for (int round = 0; round < 10; ++round) {
    const ChunkPool pool(memory().size(), kChunk);
    Populator populator(pool.memory(), Backing::kShared);
    std::atomic<bool> is_started = false;
    std::jthread writer([&] {
      is_started = true;
      // From the end, so that both meet in the middle.
      for (std::size_t at = bytes.size(); at > 0; at -= kBlockBytes) {
        std::copy_n(bytes.begin() + static_cast<long>(at - kBlockBytes), kBlockBytes,
                    pool.memory().begin() + static_cast<long>(at - kBlockBytes));
      }
    });
    while (!is_started) std::this_thread::yield();
    for (std::size_t at = 0; at < bytes.size(); at += kChunk) {
      populator.populate(pool.memory().subspan(at, kChunk));
    }
    writer.join();
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), pool.memory().begin())) << "round " << round;
  }
}

TEST_F(SharedMemory, KeepsWhatWasThereBefore) {
  const auto bytes = testing::random_bytes(memory().size());
  std::copy(bytes.begin(), bytes.end(), memory().begin());
  Populator populator(memory(), Backing::kShared);
  populator.populate(memory());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), memory().begin()));
}

}  // namespace
}  // namespace sllm
