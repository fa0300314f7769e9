#include "store/store.h"

#include <gtest/gtest.h>

#include <optional>

#include "store/stored_bytes.h"

namespace sllm {
namespace {

using testing::expect_error;
using testing::kChunk;
using testing::lease_of;
using testing::MappedLease;
using testing::resident_bytes;
using testing::StoredBytes;
using testing::take_change;

using Ranges = std::vector<FileRange>;

Store::Options pool_of(std::uint64_t chunks, EvictionPolicy eviction = EvictionPolicy::kGreedyDual) {
  return {.pool_bytes = chunks * kChunk, .chunk_bytes = kChunk, .eviction = eviction};
}

TEST(Store, GivesBackWhatItWasGiven) {
  Store store(pool_of(8));
  StoredBytes model({2 * kChunk + 100, kMiB + 5, 0, 7});
  model.add_to(store);
  const auto reservation = model.reserve(store);
  EXPECT_EQ(reservation->resident_bytes(), 0U);
  EXPECT_FALSE(reservation->is_complete());
  model.bring(*reservation);
  EXPECT_TRUE(reservation->is_complete());
  EXPECT_EQ(reservation->resident_bytes(), reservation->bytes());
  const MappedLease lease = lease_of(store, *reservation);
  EXPECT_TRUE(model.equals(lease.bytes(), reservation->pieces()));
  EXPECT_TRUE(reservation->claim().empty());
}

TEST(Store, SaysWherePagesLieAroundWhatIsWanted) {
  Store store(pool_of(8));
  StoredBytes model({2 * kChunk + 10'000});
  model.add_to(store);
  const Ranges wanted{{0, 5000, 5001}, {0, 8100, 9000}, {0, 2 * kChunk - 1, 2 * kChunk + 9000}};
  const auto reservation = store.reserve(model.number, wanted);
  EXPECT_EQ(reservation->bytes(), 2 * kChunk + 10'000);
  const auto pieces = reservation->pieces();
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0], (PooledPiece{0, 4096, 8192, pieces[0].pool_offset}));
  EXPECT_EQ(pieces[1], (PooledPiece{0, 2 * kChunk - 4096, 4096 + 10'000, pieces[1].pool_offset}));
  EXPECT_EQ(pieces[0].pool_offset % kChunk, 4096U);
}

TEST(Store, LeavesOutWhatIsNotWanted) {
  Store store(pool_of(8));
  StoredBytes model({6 * kChunk, kMiB});
  model.add_to(store);
  const Ranges wanted{{0, kChunk, kChunk + 1}, {0, 3 * kChunk - 1, 3 * kChunk + 1}, {1, 5, 5}};
  const auto reservation = store.reserve(model.number, wanted);
  EXPECT_EQ(reservation->bytes(), 3 * kChunk);
  EXPECT_EQ(model.claim(*reservation), (Ranges{{0, kChunk, 4 * kChunk}}));
}

TEST(Store, HandsOutPartsOfSeveralFilesSideBySide) {
  Store store(pool_of(16));
  StoredBytes model({4 * kChunk, 2 * kChunk});
  model.add_to(store);
  const Ranges expected{{0, 0, kChunk},
                        {1, 0, kChunk},
                        {0, kChunk, 3 * kChunk},
                        {1, kChunk, 2 * kChunk},
                        {0, 3 * kChunk, 4 * kChunk}};
  EXPECT_EQ(model.claim(*model.reserve(store)), expected);
}

TEST(Store, GrantsAllOrNothing) {
  Store store(pool_of(4));
  StoredBytes first({3 * kChunk}, 1);
  StoredBytes second({2 * kChunk}, 2);
  first.add_to(store);
  second.add_to(store);
  auto held = first.reserve(store);
  EXPECT_EQ(second.reserve(store), nullptr);
  EXPECT_EQ(store.status().free_bytes, kChunk);
  EXPECT_EQ(store.status().evicted_bytes, 0U);
  held.reset();
  EXPECT_NE(second.reserve(store), nullptr);
}

TEST(Store, NamesBothSizesWhereThePoolIsTooSmall) {
  Store store(pool_of(2));
  StoredBytes model({2 * kChunk, 1});
  model.add_to(store);
  expect_error(ErrorCode::kExhausted, std::to_string(3 * kChunk), [&] { model.reserve(store); });
  expect_error(ErrorCode::kExhausted, std::to_string(2 * kChunk), [&] { model.reserve(store); });
  EXPECT_NE(store.reserve(model.number, Ranges{{0, 0, 2 * kChunk}}), nullptr);
}

TEST(Store, RefusesRangesOutsideAFileAndCheckpointsThatItDoesNotKnow) {
  Store store(pool_of(2));
  StoredBytes model({kMiB});
  model.add_to(store);
  for (const FileRange& range : {FileRange{0, 0, kMiB + 1}, {0, 2, 1}, {1, 0, 0}, {0, kMiB + 1, kMiB + 1}}) {
    expect_error(ErrorCode::kInvalid, "outside file", [&] { store.reserve(model.number, Ranges{range}); });
  }
  expect_error(ErrorCode::kNotFound, "no checkpoint", [&] { store.reserve(77, {}); });
  expect_error(ErrorCode::kInvalid, "crcs", [&] { store.add({{.bytes = 5, .span_crcs = {1, 2}}}, 0); });
  expect_error(ErrorCode::kInvalid, "cost", [&] { store.add({}, -1); });
}

TEST(Store, LetsOneClaimAndTheOtherSeeItBecomeResident) {
  Store store(pool_of(4));
  StoredBytes model({2 * kChunk + 5});
  model.add_to(store);
  const auto one = model.reserve(store);
  const auto other = model.reserve(store);
  EXPECT_EQ(one->hit_bytes(), 0U);
  EXPECT_EQ(other->hit_bytes(), other->bytes());
  const auto claimed = model.claim(*one);
  EXPECT_TRUE(other->claim().empty());
  EXPECT_EQ(store.status().filling_bytes, 2 * kChunk + 5);
  one->write(0, 0, model.at({0, 0, kChunk}));
  EXPECT_EQ(other->resident_bytes(), kChunk);
  one->write(0, kChunk, model.at({0, kChunk, 2 * kChunk + 5}));
  EXPECT_TRUE(other->is_complete());
}

TEST(Store, LetsAnotherClaimWhatWasAbandonedOrWhoseReservationWent) {
  Store store(pool_of(4));
  StoredBytes model({2 * kChunk});
  model.add_to(store);
  auto one = model.reserve(store);
  auto other = model.reserve(store);
  one->claim();
  one->write(0, 0, model.at({0, 0, kChunk + kMiB}));
  one->abandon();
  EXPECT_EQ(store.status().failed_fills, 1U);
  EXPECT_EQ(model.claim(*other), (Ranges{{0, kChunk, 2 * kChunk}}));
  expect_error(ErrorCode::kInvalid, "not claimed",
               [&] { one->write(0, kChunk, model.at({0, kChunk, 2 * kChunk})); });
  other.reset();
  EXPECT_EQ(model.claim(*one), (Ranges{{0, kChunk, 2 * kChunk}}));
  EXPECT_EQ(store.status().failed_fills, 2U);
  one.reset();
  EXPECT_EQ(store.status().filling_bytes, 0U);
  EXPECT_EQ(resident_bytes(store, model.number), kChunk);
  EXPECT_EQ(store.status().free_bytes, 3 * kChunk);
}

TEST(Store, UsesWhatIsThereAlready) {
  Store store(pool_of(4));
  StoredBytes model({3 * kChunk});
  model.add_to(store);
  {
    const auto middle = store.reserve(model.number, Ranges{{0, kChunk, kChunk + 1}});
    model.bring(*middle);
  }
  const auto all = model.reserve(store);
  EXPECT_EQ(all->hit_bytes(), kChunk);
  EXPECT_EQ(model.claim(*all), (Ranges{{0, 0, kChunk}, {0, 2 * kChunk, 3 * kChunk}}));
}

TEST(Store, NeverEvictsWhatIsLeasedOrReserved) {
  Store store(pool_of(4));
  StoredBytes leased({kChunk}, 1);
  StoredBytes reserved({kChunk}, 2);
  StoredBytes idle({kChunk}, 3);
  StoredBytes large({2 * kChunk}, 4);
  for (StoredBytes* model : {&leased, &reserved, &idle, &large}) model->add_to(store);
  auto leasing = leased.reserve(store);
  leased.bring(*leasing);
  const auto pieces = leasing->pieces();
  std::optional<MappedLease> lease = lease_of(store, *leasing);
  leasing.reset();
  auto holding = reserved.reserve(store);
  reserved.bring(*holding);
  EXPECT_TRUE(idle.load(store));

  EXPECT_TRUE(large.load(store));
  EXPECT_EQ(resident_bytes(store, idle.number), 0U);
  EXPECT_EQ(store.evict(leased.number) + store.evict(reserved.number), 0U);
  StoredBytes too_large({3 * kChunk}, 5);
  too_large.add_to(store);
  EXPECT_EQ(too_large.reserve(store), nullptr);
  EXPECT_EQ(resident_bytes(store, large.number), 2 * kChunk) << "nothing goes in vain";
  EXPECT_TRUE(leased.equals(lease->bytes(), pieces));

  lease.reset();
  EXPECT_TRUE(too_large.load(store));
  EXPECT_EQ(resident_bytes(store, leased.number), 0U);
  EXPECT_TRUE(holding->is_complete());
}

// The leased page lies in the second chunk; with the first one all of its part would go.
TEST(Store, LeasesAllChunksOfAPartForOneOfItsPages) {
  Store store(pool_of(2));
  StoredBytes other({3 * kMiB}, 1);
  StoredBytes model({2 * kMiB}, 2);
  StoredBytes next({kChunk}, 3);
  for (StoredBytes* each : {&other, &model, &next}) each->add_to(store);
  EXPECT_TRUE(other.load(store));
  auto held = store.reserve(model.number, Ranges{{0, 2 * kMiB - 1, 2 * kMiB}});
  model.bring(*held);
  const auto pieces = held->pieces();
  ASSERT_GE(pieces[0].pool_offset, kChunk);
  std::optional<MappedLease> lease = lease_of(store, *held);
  held.reset();
  EXPECT_EQ(next.reserve(store), nullptr);
  EXPECT_TRUE(model.equals(lease->bytes(), pieces));
  lease.reset();
  EXPECT_TRUE(next.load(store));
}

TEST(Store, EvictsWhatCostsLeastToBringBack) {
  Store store(pool_of(3));
  StoredBytes cheap({kChunk}, 1);
  StoredBytes dear({kChunk}, 2);
  StoredBytes cheap_but_used({kChunk}, 3);
  StoredBytes next({kChunk}, 4);
  dear.add_to(store, 1e-8);
  cheap.add_to(store, 1e-9);
  cheap_but_used.add_to(store, 1e-9);
  next.add_to(store, 1e-9);
  for (StoredBytes* model : {&dear, &cheap_but_used, &cheap_but_used, &cheap})
    EXPECT_TRUE(model->load(store));
  EXPECT_TRUE(next.load(store));
  EXPECT_EQ(resident_bytes(store, cheap.number), 0U);
  store.set_cost(dear.number, 1e-10);
  EXPECT_TRUE(cheap.load(store));
  EXPECT_EQ(resident_bytes(store, dear.number), 0U);
}

TEST(Store, EvictsWhatWasUsedLongestAgoWhereItIsLru) {
  Store store(pool_of(2, EvictionPolicy::kLru));
  StoredBytes one({kChunk}, 1);
  StoredBytes two({kChunk}, 2);
  StoredBytes three({kChunk}, 3);
  for (StoredBytes* model : {&one, &two, &three}) model->add_to(store);
  for (StoredBytes* model : {&one, &two, &one, &three}) EXPECT_TRUE(model->load(store));
  EXPECT_EQ(resident_bytes(store, two.number), 0U);
}

TEST(Store, EvictsAFilesEndFirst) {
  Store store(pool_of(6));
  StoredBytes model({4 * kChunk, 2 * kChunk}, 1);
  StoredBytes next({3 * kChunk}, 2);
  model.add_to(store);
  next.add_to(store);
  EXPECT_TRUE(model.load(store));
  EXPECT_TRUE(next.load(store));
  const auto heads = store.reserve(model.number, Ranges{{0, 0, 2 * kChunk}, {1, 0, kChunk}});
  EXPECT_TRUE(heads->is_complete());
}

TEST(Store, EvictsARetiredCheckpointFirst) {
  Store store(pool_of(3));
  StoredBytes dear({kChunk}, 1);
  StoredBytes cheap({kChunk}, 2);
  dear.add_to(store, 1);
  cheap.add_to(store, 0);
  auto held = dear.reserve(store);
  dear.bring(*held);
  std::optional<MappedLease> lease = lease_of(store, *held);
  EXPECT_TRUE(cheap.load(store));
  store.retire(dear.number);
  expect_error(ErrorCode::kNotFound, "retired", [&] { dear.reserve(store); });
  held.reset();  // the lease still keeps it
  EXPECT_EQ(resident_bytes(store, dear.number), kChunk);
  lease.reset();
  StoredBytes large({2 * kChunk}, 4);
  large.add_to(store);
  EXPECT_TRUE(large.load(store));
  EXPECT_EQ(resident_bytes(store, cheap.number), kChunk);
  EXPECT_EQ(resident_bytes(store, dear.number), 0U);
}

TEST(Store, ForgetsARetiredCheckpointWithTheLastOfIt) {
  Store store(pool_of(2));
  StoredBytes model({kChunk + 5});
  model.add_to(store);
  EXPECT_TRUE(model.load(store));
  auto held = store.reserve(model.number, Ranges{{0, 0, 1}});
  store.retire(model.number);
  EXPECT_EQ(resident_bytes(store, model.number), kChunk) << "what nobody holds goes at once";
  EXPECT_TRUE(held->is_complete());
  held.reset();
  EXPECT_TRUE(store.status().checkpoints.empty());
  EXPECT_EQ(store.status().free_bytes, 2 * kChunk);
  expect_error(ErrorCode::kNotFound, "no checkpoint", [&] { store.retire(model.number); });
}

TEST(Store, EvictsNothingThatSharesAChunk) {
  Store store(pool_of(2));
  StoredBytes one({kMiB}, 1);
  StoredBytes two({kMiB}, 2);
  one.add_to(store);
  two.add_to(store);
  EXPECT_TRUE(one.load(store));
  EXPECT_TRUE(two.load(store));
  EXPECT_EQ(store.status().free_bytes, kChunk);
  EXPECT_EQ(store.evict(one.number), kMiB);
  EXPECT_EQ(resident_bytes(store, two.number), kMiB);
  EXPECT_EQ(store.evict(two.number), kMiB);
  EXPECT_EQ(store.status().free_bytes, 2 * kChunk);
  EXPECT_EQ(store.status().evicted_bytes, 2 * kMiB);
}

// a and b are packed so that b lies in both chunks; then there is room for all of b's checkpoint only where b
// is packed anew.
TEST(Store, PacksItsOwnPartsAnewWhereTheyStandInTheirWay) {
  Store store(pool_of(2));
  StoredBytes other({3 * kMiB}, 1);
  StoredBytes model({2 * kMiB, kChunk}, 2);
  other.add_to(store);
  model.add_to(store);
  EXPECT_TRUE(other.load(store));
  auto small = store.reserve(model.number, Ranges{{0, 0, 2 * kMiB}});
  model.bring(*small);
  EXPECT_EQ(model.reserve(store), nullptr) << "another reservation holds it";
  small.reset();
  const auto all = model.reserve(store);
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(all->hit_bytes(), 0U);
  model.bring(*all);
  EXPECT_TRUE(model.equals(store.pool().memory(), all->pieces()));
}

TEST(Store, TellsOfEachChange) {
  Store store(pool_of(2));
  StoredBytes model({kChunk + 7});
  model.add_to(store);
  EXPECT_FALSE(take_change(store));
  auto reservation = model.reserve(store);
  reservation->claim();
  EXPECT_FALSE(take_change(store));
  reservation->write(0, 0, model.at({0, 0, kChunk - kMiB}));
  EXPECT_FALSE(take_change(store));
  reservation->write(0, kChunk - kMiB, model.at({0, kChunk - kMiB, kChunk}));
  EXPECT_TRUE(take_change(store)) << "a part is resident";
  reservation->abandon();
  EXPECT_TRUE(take_change(store));
  reservation.reset();
  EXPECT_TRUE(take_change(store));
  store.evict(model.number);
  EXPECT_TRUE(take_change(store));
  const auto again = model.reserve(store);
  StoredBytes large({2 * kChunk});
  large.add_to(store);
  EXPECT_EQ(large.reserve(store), nullptr);
  EXPECT_FALSE(take_change(store)) << "who waits for room is not woken by himself";
}

}  // namespace
}  // namespace sllm
