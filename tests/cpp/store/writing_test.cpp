#include <gtest/gtest.h>

#include <thread>

#include "store/stored_bytes.h"

namespace sllm {
namespace {

using testing::expect_error;
using testing::kChunk;
using testing::lease_of;
using testing::MappedLease;
using testing::resident_bytes;
using testing::StoredBytes;

class WritingTest : public ::testing::Test {
 protected:
  void SetUp() override { model_.add_to(store_); }

  void write(Reservation& reservation, std::uint64_t begin, std::uint64_t end) {
    reservation.write(0, begin, model_.at({0, begin, end}));
  }

  static constexpr std::uint64_t kBytes = kChunk + 2 * kMiB + 9;
  Store store_{{.pool_bytes = 4 * kChunk, .chunk_bytes = kChunk}};
  StoredBytes model_{{kBytes}};
};

TEST_F(WritingTest, TakesSpansInAnyOrderAndTwice) {
  const auto reservation = model_.reserve(store_);
  reservation->claim();
  write(*reservation, kChunk, kChunk + kMiB);
  write(*reservation, kChunk, kChunk + kMiB);
  write(*reservation, kMiB, kChunk);
  EXPECT_EQ(reservation->resident_bytes(), 0U);
  write(*reservation, kChunk, kBytes);
  EXPECT_EQ(reservation->resident_bytes(), kBytes - kChunk);
  write(*reservation, 0, kMiB);
  EXPECT_TRUE(reservation->is_complete());
  EXPECT_TRUE(model_.equals(store_.pool().memory(), reservation->pieces()));
  EXPECT_EQ(store_.status().filled_bytes, kBytes);
}

TEST_F(WritingTest, RefusesWhatIsNotWholeSpansOrNotClaimed) {
  const auto reservation = store_.reserve(model_.number, std::vector<FileRange>{{0, 0, 1}});
  expect_error(ErrorCode::kInvalid, "not claimed", [&] { write(*reservation, 0, kMiB); });
  reservation->claim();
  expect_error(ErrorCode::kInvalid, "not claimed",
               [&] { write(*reservation, kChunk - kMiB, kChunk + kMiB); });
  expect_error(ErrorCode::kInvalid, "whole spans", [&] { write(*reservation, 1, kMiB); });
  expect_error(ErrorCode::kInvalid, "whole spans", [&] { write(*reservation, 0, kMiB - 1); });
  const std::vector<std::byte> bytes(kMiB);
  expect_error(ErrorCode::kInvalid, "whole spans", [&] { reservation->write(1, 0, bytes); });
  expect_error(ErrorCode::kInvalid, "whole spans", [&] { reservation->write(0, 4 * kChunk, bytes); });
  expect_error(ErrorCode::kInvalid, "overflow", [&] { reservation->write(0, ~std::uint64_t{0}, bytes); });
  write(*reservation, 0, kChunk);
  EXPECT_TRUE(reservation->is_complete());
  expect_error(ErrorCode::kInvalid, "not claimed", [&] { write(*reservation, 0, kMiB); });
}

TEST_F(WritingTest, RefusesACorruptSpanAndTakesItWhenItIsRight) {
  const auto reservation = model_.reserve(store_);
  reservation->claim();
  std::vector<std::byte> bytes(model_.files[0].begin(), model_.files[0].begin() + 3 * kMiB);
  bytes[kMiB + 5] ^= std::byte{1};
  expect_error(ErrorCode::kCorrupt, "bytes 1048576 to 2097152", [&] { reservation->write(0, 0, bytes); });
  EXPECT_EQ(reservation->resident_bytes(), 0U);
  write(*reservation, kMiB, kBytes);
  EXPECT_TRUE(reservation->is_complete()) << "the span in front of it had landed";
}

TEST_F(WritingTest, ProvesAFileByTheCrcsOfWhatIsResident) {
  StoredBytes unproved({kMiB}, 5);
  unproved.add_to(store_, 0, false);
  const auto reservation = unproved.reserve(store_);
  reservation->claim();
  expect_error(ErrorCode::kConflict, "not resident", [&] { store_.span_crcs(unproved.number, 0); });
  expect_error(ErrorCode::kInvalid, "no file", [&] { store_.span_crcs(unproved.number, 1); });
  reservation->write(0, 0, unproved.files[0]);
  const auto crcs = store_.span_crcs(unproved.number, 0);
  EXPECT_EQ(crcs, testing::crcs_of(unproved.files[0]));
  store_.prove(unproved.number, 0, crcs);
  store_.prove(unproved.number, 0, crcs);
  expect_error(ErrorCode::kConflict, "other crcs", [&] { store_.prove(unproved.number, 0, {crcs[0] + 1}); });
  expect_error(ErrorCode::kInvalid, "crcs", [&] { store_.prove(unproved.number, 0, {1, 2}); });
}

TEST_F(WritingTest, ComputesCrcsOfSpansThatLieInTwoPieces) {
  StoredBytes small({2 * kMiB + 123, 3 * kMiB}, 9);
  small.add_to(store_, 0, false);
  const auto first = store_.reserve(small.number, std::vector<FileRange>{{0, 0, 1}});
  const auto between = store_.reserve(model_.number, std::vector<FileRange>{{0, 0, 1}});
  const auto reservation = small.reserve(store_);
  EXPECT_EQ(reservation->pieces().size(), 3U) << "one of them goes on in another chunk";
  small.bring(*reservation);
  for (std::uint64_t file = 0; file < 2; ++file) {
    EXPECT_EQ(store_.span_crcs(small.number, file), testing::crcs_of(small.files[file]));
  }
}

TEST_F(WritingTest, IsDoneByManyThreadsAtOnce) {
  const auto reservation = model_.reserve(store_);
  const auto watching = model_.reserve(store_);
  reservation->claim();
  std::vector<std::jthread> threads;
  for (std::uint64_t first = 0; first < 3; ++first) {
    threads.emplace_back([&, first] {
      for (std::uint64_t at = first * kMiB; at < kBytes; at += 3 * kMiB) {
        write(*reservation, at, std::min(at + kMiB, kBytes));
      }
    });
  }
  threads.emplace_back([&] {
    while (!watching->is_complete()) std::this_thread::yield();
    EXPECT_TRUE(model_.equals(store_.pool().memory(), watching->pieces()));
  });
  threads.clear();
  EXPECT_TRUE(reservation->is_complete());
}

// Whoever abandons while another thread writes: no part of the pool is anybody else's before the write is
// over.
TEST_F(WritingTest, GivesUpWhatIsBeingWrittenOnlyAfterThat) {
  for (int round = 0; round < 20; ++round) {
    store_.evict(model_.number);
    auto one = model_.reserve(store_);
    const auto other = model_.reserve(store_);
    one->claim();
    std::jthread writer([&] {
      try {
        write(*one, 0, kBytes);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalid);
      }
    });
    one->abandon();
    model_.bring(*other);
    writer.join();
    model_.bring(*other);
    EXPECT_TRUE(other->is_complete());
    EXPECT_TRUE(model_.equals(store_.pool().memory(), other->pieces()));
    one.reset();
    EXPECT_EQ(store_.status().filling_bytes, 0U);
  }
}

TEST_F(WritingTest, LeasesOnlyWhatIsComplete) {
  const auto reservation = model_.reserve(store_);
  expect_error(ErrorCode::kConflict, "resident", [&] { reservation->lease(); });
  model_.bring(*reservation);
  auto [number, descriptor] = reservation->lease();
  const auto second = reservation->lease();
  EXPECT_NE(number, second.first);
  auto leases = store_.leases();
  ASSERT_EQ(leases.size(), 2U);
  EXPECT_EQ(leases[0].checkpoint, model_.number);
  EXPECT_EQ(leases[0].bytes, 2 * kChunk);
  EXPECT_EQ(store_.status().leased_bytes, 2 * kChunk);
  EXPECT_EQ(store_.status().checkpoints[0].leases, 2U);
  {
    const UniqueFd closed = std::move(descriptor);
  }
  leases = store_.leases();
  ASSERT_EQ(leases.size(), 1U);
  EXPECT_EQ(leases[0].number, second.first);
}

}  // namespace
}  // namespace sllm
