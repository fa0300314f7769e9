#include "memory/warmer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <vector>

#include "base/size.h"
#include "io/temporary_file.h"
#include "memory/populate.h"

namespace sllm {
namespace {

constexpr std::uint64_t kChunk = 4 * kMiB;
constexpr std::uint64_t kChunks = 40;  // more than two steps

template <typename Claim>
bool becomes_true(Claim claim) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!claim() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  return claim();
}

std::size_t threads_at_nice_19() {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    const auto thread = static_cast<id_t>(std::stoul(task.path().filename()));
    count += ::getpriority(PRIO_PROCESS, thread) == 19;
  }
  return count;
}

class WarmerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  }
  std::size_t pages_there(ChunkRange chunks) const {
    const auto memory = pool_.memory(chunks);
    std::vector<unsigned char> pages(memory.size() / kBlockBytes);
    EXPECT_EQ(::mincore(memory.data(), memory.size(), pages.data()), 0);
    return static_cast<std::size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; }));
  }

  ChunkPool pool_{kChunks * kChunk, kChunk};
};

TEST_F(WarmerTest, BringsInEveryChunkAndEnds) {
  const auto threads = testing::running_threads();
  Warmer warmer(pool_);
  warmer.start();
  ASSERT_TRUE(becomes_true([&] { return warmer.is_finished(); }));
  EXPECT_EQ(pool_.touched_chunks(), kChunks);
  EXPECT_EQ(pages_there({0, kChunks}), kChunks * kChunk / kBlockBytes);
  EXPECT_TRUE(testing::threads_come_down_to(threads));
}

TEST_F(WarmerTest, LeavesOutWhatIsThereAlready) {
  pool_.note_touched({0, 3});
  pool_.note_touched({20, 2});
  pool_.note_touched({kChunks - 1, 1});
  Warmer warmer(pool_);
  warmer.start();
  ASSERT_TRUE(becomes_true([&] { return warmer.is_finished(); }));
  EXPECT_EQ(pages_there({0, 3}), 0U);
  EXPECT_EQ(pages_there({20, 2}), 0U);
  EXPECT_EQ(pages_there({kChunks - 1, 1}), 0U);
  EXPECT_EQ(pages_there({3, 17}), 17 * kChunk / kBlockBytes);
}

TEST_F(WarmerTest, GivesWayToEverythingElse) {
  Warmer warmer(pool_);
  const Warmer::Pause pause = warmer.pause();
  const auto before = threads_at_nice_19();
  warmer.start();
  EXPECT_TRUE(becomes_true([&] { return threads_at_nice_19() == before + 1; }));
}

TEST_F(WarmerTest, TouchesNothingUntilTheLastPauseIsOver) {
  Warmer warmer(pool_);
  std::vector<Warmer::Pause> pauses;
  pauses.push_back(warmer.pause());
  pauses.push_back(warmer.pause());
  const auto before = threads_at_nice_19();
  warmer.start();
  ASSERT_TRUE(becomes_true([&] { return threads_at_nice_19() == before + 1; }));
  pauses.pop_back();
  // As long as another one takes for as much.
  ChunkPool other_pool(kChunks * kChunk, kChunk);
  Warmer other(other_pool);
  other.start();
  ASSERT_TRUE(becomes_true([&] { return other.is_finished(); }));
  EXPECT_EQ(pages_there({0, kChunks}), 0U);
  EXPECT_FALSE(warmer.is_finished());
  pauses.pop_back();
  EXPECT_TRUE(becomes_true([&] { return warmer.is_finished(); }));
}

TEST_F(WarmerTest, StopsWithItsOwnerWhateverItDoes) {
  const auto threads = testing::running_threads();
  {
    Warmer warmer(pool_);
    const Warmer::Pause pause = warmer.pause();
    warmer.start();
  }
  {
    Warmer warmer(pool_);
    warmer.start();
  }
  EXPECT_TRUE(testing::threads_come_down_to(threads));
}

TEST_F(WarmerTest, LeavesBytesAloneThatLandMeanwhile) {
  const auto bytes = testing::random_bytes(kChunks * kChunk);
  Warmer warmer(pool_);
  warmer.start();
  std::copy(bytes.rbegin(), bytes.rend(), pool_.memory().rbegin());
  ASSERT_TRUE(becomes_true([&] { return warmer.is_finished(); }));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), pool_.memory().begin()));
}

}  // namespace
}  // namespace sllm
