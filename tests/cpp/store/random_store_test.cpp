#include <gtest/gtest.h>

#include <list>
#include <map>
#include <random>
#include <tuple>

#include "store/stored_bytes.h"

namespace sllm {
namespace {

using testing::kChunk;
using testing::MappedLease;
using testing::StoredBytes;

// What a page of a checkpoint's file is, whoever says where it lies.
using Page = std::tuple<CheckpointNumber, std::uint64_t, std::uint64_t>;

// A store under random use, beside a model of it that knows only what it must still have.
class RandomStore {
 public:
  explicit RandomStore(std::uint64_t seed) : random_(seed) {
    const std::vector<std::vector<std::uint64_t>> sizes{
        {2 * kChunk + 12'345}, {kMiB + 77, 2 * kMiB}, {900'000},
        {kChunk, kChunk - 1},  {2'100'000},           {3 * kMiB}};
    for (const auto& each : sizes) {
      auto& model = models_.emplace_back(each, seed + models_.size());
      model.add_to(store_, 1e-9 * static_cast<double>(1 + random_() % 5), random_() % 2 == 0);
    }
  }

  void step() {
    switch (random_() % 12) {
      case 0:
      case 1:
      case 2:
      case 3:
        return reserve();
      case 4:
      case 5:
      case 6:
        return bring();
      case 7:
        return lease();
      case 8:
        return let_go();
      case 9:
        return end_lease();
      case 10:
        return abandon();
      default:
        return disturb();
    }
  }

  void check() {
    std::map<std::uint64_t, Page> pages;
    for (const Held& held : held_) {
      note(held.model->number, held.reservation->pieces(), pages);
      if (!held.was_complete) continue;
      ASSERT_TRUE(held.reservation->is_complete()) << "what is held was evicted";
    }
    for (const Leased& lease : leases_) {
      note(lease.number, lease.pieces, pages);
      ASSERT_TRUE(equals(lease)) << "leased bytes have changed";
    }
    const StoreStatus status = store_.status();
    ASSERT_EQ(status.filled_bytes - status.evicted_bytes, status.resident_bytes);
    ASSERT_EQ(status.hit_bytes + status.miss_bytes, asked_bytes_);
    ASSERT_LE(status.resident_bytes + status.filling_bytes + status.free_bytes, status.pool_bytes);
    ASSERT_EQ(store_.leases().size(), leases_.size());
  }

  // With nobody left, the pool is whole.
  void finish() {
    held_.clear();
    leases_.clear();
    for (StoredBytes& model : models_) {
      ASSERT_TRUE(model.load(store_));
      const auto all = model.reserve(store_);
      ASSERT_TRUE(model.equals(store_.pool().memory(), all->pieces()));
    }
    for (StoredBytes& model : models_) store_.evict(model.number);
    const StoreStatus status = store_.status();
    EXPECT_EQ(status.free_bytes, status.pool_bytes);
    EXPECT_EQ(status.resident_bytes + status.filling_bytes + status.leased_bytes, 0U);
    EXPECT_GT(status.evicted_bytes, 2 * status.pool_bytes) << "the test has to evict";
  }

 private:
  std::mt19937_64 random_;

  struct Held {
    StoredBytes* model;
    std::shared_ptr<Reservation> reservation;
    std::vector<FileRange> claimed;
    bool was_complete = false;
  };
  struct Leased {
    const StoredBytes* model;
    CheckpointNumber number;
    std::vector<PooledPiece> pieces;
    MappedLease memory;
  };

  Held& any_held() { return *std::next(held_.begin(), static_cast<long>(random_() % held_.size())); }

  std::vector<FileRange> any_ranges(const StoredBytes& model) {
    std::vector<FileRange> ranges = model.all();
    if (random_() % 2 == 0) return ranges;
    for (FileRange& range : ranges) {
      range.begin = random_() % range.end;
      range.end = range.begin + random_() % (range.end - range.begin + 1);
    }
    return ranges;
  }

  void reserve() {
    StoredBytes& model = models_[random_() % models_.size()];
    if (held_.size() >= 4) return let_go();
    auto reservation = store_.reserve(model.number, any_ranges(model));
    if (!reservation) {
      ASSERT_FALSE(held_.empty() && leases_.empty()) << "nobody else has anything";
      return;
    }
    asked_bytes_ += reservation->bytes();
    held_.push_back({&model, reservation, model.claim(*reservation)});
    held_.back().was_complete = reservation->is_complete();
  }

  void bring() {
    if (held_.empty()) return;
    Held& held = any_held();
    if (held.claimed.empty()) held.claimed = held.model->claim(*held.reservation);
    while (!held.claimed.empty() && random_() % 4 != 0) {
      FileRange& range = held.claimed.back();
      const std::uint64_t last = align_down(range.end - 1, kSpanBytes);
      held.reservation->write(range.file, last, held.model->at({range.file, last, range.end}));
      range.end = last;
      if (range.end == range.begin) held.claimed.pop_back();
    }
    held.was_complete |= held.reservation->is_complete();
  }

  void lease() {
    if (held_.empty() || leases_.size() >= 3) return;
    Held& held = any_held();
    if (!held.reservation->is_complete()) return;
    leases_.push_back({held.model, held.model->number, held.reservation->pieces(),
                       testing::lease_of(store_, *held.reservation)});
  }

  void let_go() {
    if (!held_.empty()) held_.erase(std::next(held_.begin(), static_cast<long>(random_() % held_.size())));
  }

  void end_lease() {
    if (!leases_.empty())
      leases_.erase(std::next(leases_.begin(), static_cast<long>(random_() % leases_.size())));
  }

  void abandon() {
    if (held_.empty()) return;
    Held& held = any_held();
    held.reservation->abandon();
    held.claimed.clear();
  }

  // A checkpoint is evicted, or replaced by one of the same bytes.
  void disturb() {
    StoredBytes& model = models_[random_() % models_.size()];
    store_.evict(model.number);
    if (random_() % 4 != 0) return;
    const bool is_held =
        std::any_of(held_.begin(), held_.end(), [&](const Held& held) { return held.model == &model; });
    if (is_held) return;
    store_.retire(model.number);
    model.add_to(store_);
  }

  bool equals(const Leased& lease) const {
    return std::all_of(lease.pieces.begin(), lease.pieces.end(), [&](const PooledPiece& piece) {
      for (std::uint64_t at = 0; at < piece.bytes; at += 16 * kBlockBytes) {
        const std::uint64_t bytes = std::min<std::uint64_t>(64, piece.bytes - at);
        const PooledPiece sample{piece.file, piece.offset + at, bytes, piece.pool_offset + at};
        if (!lease.model->equals(lease.memory.bytes(), {sample})) return false;
      }
      return true;
    });
  }

  // No page of the pool is two things.
  static void note(CheckpointNumber number, const std::vector<PooledPiece>& pieces,
                   std::map<std::uint64_t, Page>& pages) {
    for (const PooledPiece& piece : pieces) {
      ASSERT_EQ(piece.offset % kBlockBytes, 0U);
      ASSERT_EQ(piece.pool_offset % kBlockBytes, 0U);
      for (std::uint64_t at = 0; at < piece.bytes; at += kBlockBytes) {
        const Page page{number, piece.file, piece.offset + at};
        const auto [found, is_first] = pages.emplace(piece.pool_offset + at, page);
        ASSERT_TRUE(is_first || found->second == page);
      }
    }
  }

  Store store_{{.pool_bytes = 6 * kChunk, .chunk_bytes = kChunk, .eviction = EvictionPolicy::kGreedyDual}};
  std::vector<StoredBytes> models_;
  std::list<Held> held_;
  std::list<Leased> leases_;
  std::uint64_t asked_bytes_ = 0;
};

TEST(RandomStore, KeepsWhatItMustAndGivesTheRestAway) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    RandomStore random(seed);
    for (int i = 0; i < 1000 && !::testing::Test::HasFatalFailure(); ++i) {
      random.step();
      random.check();
    }
    random.finish();
  }
}

}  // namespace
}  // namespace sllm
