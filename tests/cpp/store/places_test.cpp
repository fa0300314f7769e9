#include "store/places.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/size.h"

namespace sllm {
namespace {

constexpr std::uint64_t kChunk = 4 * kMiB;

bool nothing_is_touched(std::uint64_t) { return false; }

std::vector<std::uint64_t> take_chunks(Places& places, std::uint64_t count,
                                       const Places::ChunkPredicate& is_touched = nothing_is_touched) {
  auto placement = places.take({.chunks = count, .packed = {}}, is_touched);
  return placement ? placement->chunks : std::vector<std::uint64_t>();
}

using Chunks = std::vector<std::uint64_t>;

TEST(Places, TakesChunksThatAreNeighbours) {
  Places places(16, kChunk);
  EXPECT_EQ(take_chunks(places, 3), (Chunks{0, 1, 2}));
  EXPECT_EQ(take_chunks(places, 4), (Chunks{3, 4, 5, 6}));
  EXPECT_EQ(take_chunks(places, 2), (Chunks{7, 8}));
  for (const std::uint64_t chunk : {3, 4, 5, 6}) places.give_back_chunk(chunk);
  EXPECT_EQ(take_chunks(places, 5), (Chunks{9, 10, 11, 12, 13}));
  EXPECT_EQ(take_chunks(places, 2), (Chunks{14, 15}));
  EXPECT_EQ(take_chunks(places, 3), (Chunks{3, 4, 5}));
  EXPECT_EQ(places.free_chunks(), 1U);
}

TEST(Places, TakesTouchedChunksFirst) {
  Places places(16, kChunk);
  const auto is_touched = [](std::uint64_t chunk) { return chunk == 4 || chunk >= 14; };
  EXPECT_EQ(take_chunks(places, 2, is_touched), (Chunks{14, 15}));
  EXPECT_EQ(take_chunks(places, 3, is_touched), (Chunks{0, 1, 4}));
}

TEST(Places, TakesAllOrNothing) {
  Places places(4, kChunk);
  EXPECT_FALSE(places.take({.chunks = 4, .packed = {1}}, nothing_is_touched));
  EXPECT_EQ(places.free_chunks(), 4U);
  EXPECT_TRUE(places.take({.chunks = 3, .packed = {1}}, nothing_is_touched));
  EXPECT_EQ(places.free_chunks(), 0U);
}

TEST(Places, PacksPagesAndGoesOnElsewhereWhereAChunkHasLessLeft) {
  Places places(4, kChunk);
  const auto first = places.take({.chunks = 0, .packed = {3 * kMiB}}, nothing_is_touched);
  const auto second = places.take({.chunks = 0, .packed = {2 * kMiB}}, nothing_is_touched);
  EXPECT_EQ(first->packed[0], (std::vector<PoolRun>{{0, 3 * kMiB}}));
  EXPECT_EQ(second->packed[0], (std::vector<PoolRun>{{3 * kMiB, kMiB}, {kChunk, kMiB}}));
  // 3 MiB are left in the second chunk: what fits there goes there.
  const auto third = places.take({.chunks = 0, .packed = {5000, 1}}, nothing_is_touched);
  EXPECT_EQ(third->packed[0], (std::vector<PoolRun>{{kChunk + kMiB, 2 * kBlockBytes}}));
  EXPECT_EQ(third->packed[1], (std::vector<PoolRun>{{kChunk + kMiB + 2 * kBlockBytes, kBlockBytes}}));
  for (const PoolRun& run : second->packed[0]) places.give_back(run);
  places.give_back(first->packed[0][0]);
  EXPECT_TRUE(places.is_free(0));
  EXPECT_FALSE(places.is_free(1));
}

TEST(Places, TakesTinyHolesOnlyForWhatFitsThere) {
  Places places(4, kChunk);
  const std::uint64_t tiny = Places::kLeastPieceBytes - kBlockBytes;
  ASSERT_TRUE(places.take({.chunks = 0, .packed = {kChunk - tiny}}, nothing_is_touched));
  const auto large = places.take({.chunks = 0, .packed = {tiny + 1}}, nothing_is_touched);
  EXPECT_EQ(large->packed[0].size(), 1U);
  EXPECT_EQ(large->packed[0][0].offset, kChunk);
  const auto small = places.take({.chunks = 0, .packed = {tiny}}, nothing_is_touched);
  EXPECT_EQ(small->packed[0], (std::vector<PoolRun>{{kChunk - tiny, tiny}}));
}

TEST(Places, PacksFiveHundredAdaptersIntoATwelfthMoreThanTheirBytes) {
  std::mt19937_64 random(5);
  Places places(1024, kChunk);
  std::uint64_t bytes = 0;
  for (int i = 0; i < 500; ++i) {
    const std::uint64_t size = 2'000'000 + random() % 200'001;
    bytes += size;
    const auto placement = places.take({.chunks = 0, .packed = {size}}, nothing_is_touched);
    EXPECT_LE(placement->packed[0].size(), 2U);
  }
  const std::uint64_t taken = (1024 - places.free_chunks()) * kChunk;
  EXPECT_LE(static_cast<double>(taken), 1.08 * static_cast<double>(bytes));
}

// Who has each page, counted page by page: the oracle.
class PageMap {
 public:
  explicit PageMap(std::uint64_t chunks) : owners_(chunks * kChunk / kBlockBytes) {}

  void take(PoolRun run, int owner) {
    ASSERT_EQ(run.offset % kBlockBytes, 0U);
    ASSERT_EQ(run.bytes % kBlockBytes, 0U);
    ASSERT_EQ(run.offset / kChunk, (run.offset + run.bytes - 1) / kChunk);
    for (std::uint64_t page = run.offset / kBlockBytes; page < (run.offset + run.bytes) / kBlockBytes;
         ++page) {
      ASSERT_EQ(owners_.at(page), 0);
      owners_[page] = owner;
    }
  }

  void give_back(PoolRun run, int owner) {
    for (std::uint64_t page = run.offset / kBlockBytes; page < (run.offset + run.bytes) / kBlockBytes;
         ++page) {
      ASSERT_EQ(owners_.at(page), owner);
      owners_[page] = 0;
    }
  }

  std::uint64_t free_chunks() const {
    std::uint64_t count = 0;
    const long pages = kChunk / kBlockBytes;
    for (auto chunk = owners_.begin(); chunk != owners_.end(); chunk += pages) {
      count += std::all_of(chunk, chunk + pages, [](int owner) { return owner == 0; });
    }
    return count;
  }

 private:
  std::vector<int> owners_;
};

class RandomPlaces {
 public:
  explicit RandomPlaces(std::uint64_t seed) : random_(seed) {}

  void step() {
    if (live_.empty() || random_() % 5 < 3) {
      take();
    } else {
      give_back(std::next(live_.begin(), static_cast<long>(random_() % live_.size())));
    }
    ASSERT_EQ(places_.free_chunks(), pages_.free_chunks());
  }

  void give_all_back() {
    while (!live_.empty()) give_back(live_.begin());
    EXPECT_EQ(places_.free_chunks(), kChunks);
  }

 private:
  struct Live {
    std::vector<std::uint64_t> chunks;
    std::vector<PoolRun> runs;
  };

  void take() {
    Places::Request request{.chunks = random_() % 4, .packed = {}};
    for (std::uint64_t i = random_() % 4; i > 0; --i) request.packed.push_back(1 + random_() % (kChunk - 1));
    const std::uint64_t needed = places_.chunks_needed(request, {});
    const std::uint64_t there = places_.free_chunks();
    const auto placement =
        places_.take(request, [this](std::uint64_t chunk) { return chunk % 3 == random_() % 3; });
    ASSERT_EQ(placement.has_value(), needed <= there);
    if (!placement) return;
    ASSERT_LE(there - places_.free_chunks(), places_.chunks_needed_alone(request));
    Live live{.chunks = placement->chunks, .runs = {}};
    for (const std::uint64_t chunk : live.chunks) pages_.take({chunk * kChunk, kChunk}, next_);
    ASSERT_EQ(live.chunks.size(), request.chunks);
    for (std::size_t i = 0; i < request.packed.size(); ++i) {
      std::uint64_t bytes = 0;
      for (const PoolRun& run : placement->packed[i]) {
        pages_.take(run, next_);
        live.runs.push_back(run);
        bytes += run.bytes;
      }
      ASSERT_EQ(bytes, align_up(request.packed[i], kBlockBytes));
    }
    live_.emplace(next_++, std::move(live));
  }

  void give_back(std::map<int, Live>::iterator live) {
    for (const std::uint64_t chunk : live->second.chunks) {
      pages_.give_back({chunk * kChunk, kChunk}, live->first);
      places_.give_back_chunk(chunk);
    }
    for (const PoolRun& run : live->second.runs) {
      pages_.give_back(run, live->first);
      places_.give_back(run);
    }
    live_.erase(live);
  }

  static constexpr std::uint64_t kChunks = 24;
  std::mt19937_64 random_;
  Places places_{kChunks, kChunk};
  PageMap pages_{kChunks};
  std::map<int, Live> live_;
  int next_ = 1;
};

TEST(Places, GivesNoPageToTwoAndTakesAllBack) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    RandomPlaces random(seed);
    for (int i = 0; i < 300 && !::testing::Test::HasFatalFailure(); ++i) random.step();
    random.give_all_back();
  }
}

}  // namespace
}  // namespace sllm
