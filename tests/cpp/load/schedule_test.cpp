#include "load/schedule.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "base/size.h"
#include "device/host_device.h"

namespace sllm {
namespace {

LoadPlan plan_of(std::uint64_t file_bytes, std::vector<Extent> extents, bool verified) {
  LoadPlan plan;
  plan.files.push_back({.path = "f", .identity = {.bytes = file_bytes}, .span_crcs = {}, .resident = {}});
  if (verified) plan.files[0].span_crcs.resize((file_bytes + kSpanBytes - 1) / kSpanBytes);
  plan.target_bytes.push_back(0);
  for (const Extent& extent : extents) {
    plan.target_bytes[0] = std::max(plan.target_bytes[0], extent.destination + extent.bytes);
  }
  plan.extents = std::move(extents);
  return plan;
}

// For one target in host memory that starts at a block.
Schedule schedule_of(const LoadPlan& plan, std::uint64_t most_bytes) {
  const Target target{.start = kMiB, .bytes = plan.target_bytes[0]};
  return make_schedule(plan, {&target, 1}, most_bytes);
}

// Where each delivered byte comes from: destination offset to file offset.
std::map<std::uint64_t, std::uint64_t> delivered(const Schedule& schedule) {
  std::map<std::uint64_t, std::uint64_t> bytes;
  for (const PlannedRead& read : schedule.reads) {
    if (read.in_place) {
      for (std::uint64_t i = 0; i < read.bytes; ++i) bytes[read.destination + i] = read.offset + i;
    }
    for (std::uint64_t p = read.first_piece; p < read.first_piece + read.pieces; ++p) {
      const Piece& piece = schedule.pieces[p];
      EXPECT_LE(piece.from + piece.bytes, read.bytes);
      for (std::uint64_t i = 0; i < piece.bytes; ++i)
        bytes[piece.destination + i] = read.offset + piece.from + i;
    }
  }
  return bytes;
}

void expect_delivers(const LoadPlan& plan, const Schedule& schedule) {
  const auto bytes = delivered(schedule);
  for (const Extent& extent : plan.extents) {
    for (std::uint64_t i = 0; i < extent.bytes; ++i) {
      const auto found = bytes.find(extent.destination + i);
      ASSERT_TRUE(found != bytes.end());
      ASSERT_EQ(found->second, extent.offset + i);
    }
  }
}

TEST(Schedule, ReadsAlignedSpansInPlaceAndTheSpanOfTheHeaderThroughStaging) {
  const LoadPlan plan = plan_of(3 * kMiB + 100, {{0, kBlockBytes, 3 * kMiB + 100 - kBlockBytes, 0, 0}}, true);
  LoadPlan aligned = plan;
  aligned.extents[0].destination = kBlockBytes;
  aligned.target_bytes[0] += kBlockBytes;
  const Schedule schedule = schedule_of(aligned, 8 * kMiB);
  ASSERT_EQ(schedule.reads.size(), 2U);
  EXPECT_FALSE(schedule.reads[0].in_place);
  EXPECT_EQ(schedule.reads[0].bytes, kMiB);
  EXPECT_TRUE(schedule.reads[1].in_place);
  EXPECT_EQ(schedule.reads[1].bytes, 2 * kMiB + 100);
  expect_delivers(aligned, schedule);
}

TEST(Schedule, StagesWhatIsNotAlignedAlike) {
  const LoadPlan plan = plan_of(2 * kMiB, {{0, 8, 2 * kMiB - 8, 0, 64}}, true);
  const Schedule schedule = schedule_of(plan, 8 * kMiB);
  for (const PlannedRead& read : schedule.reads) EXPECT_FALSE(read.in_place);
  expect_delivers(plan, schedule);
}

TEST(Schedule, KeepsToTheMostBytesOfARead) {
  const LoadPlan plan = plan_of(64 * kMiB, {{0, 0, 64 * kMiB, 0, 0}}, true);
  for (const std::uint64_t most : {kMiB, 4 * kMiB, 16 * kMiB}) {
    const Schedule schedule = schedule_of(plan, most);
    EXPECT_EQ(schedule.reads.size(), 64 * kMiB / most);
    for (const PlannedRead& read : schedule.reads) EXPECT_LE(read.bytes, most);
  }
}

TEST(Schedule, ReadsWholeSpansOfAVerifiedFileAndWholeBlocksOfAnother) {
  const std::vector<Extent> one{{0, kMiB + 5000, 100, 0, 0}};
  const Schedule verified = schedule_of(plan_of(4 * kMiB, one, true), 8 * kMiB);
  ASSERT_EQ(verified.reads.size(), 1U);
  EXPECT_EQ(verified.reads[0].offset, kMiB);
  EXPECT_EQ(verified.reads[0].bytes, kMiB);
  const Schedule unverified = schedule_of(plan_of(4 * kMiB, one, false), 8 * kMiB);
  ASSERT_EQ(unverified.reads.size(), 1U);
  EXPECT_EQ(unverified.reads[0].offset, kMiB + kBlockBytes);
  EXPECT_EQ(unverified.reads[0].bytes, kBlockBytes);
}

TEST(Schedule, DeliversManyExtentsOfEverySizeAndSkipsTheEmpty) {
  std::vector<Extent> extents;
  std::uint64_t offset = 24;
  std::uint64_t destination = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::uint64_t bytes = i % 5 == 0 ? 0 : (i * 7919) % 60000;
    extents.push_back({0, offset, bytes, 0, destination});
    offset += bytes + (i % 3 == 0 ? 5000 : 0);
    destination += align_up(bytes, 64) + 64;
  }
  for (const bool verified : {true, false}) {
    const LoadPlan plan = plan_of(offset + 17, extents, verified);
    validate(plan);
    expect_delivers(plan, schedule_of(plan, 2 * kMiB));
  }
}

TEST(Schedule, NeverReadsAByteOfAFileTwice) {
  const LoadPlan plan =
      plan_of(10 * kMiB, {{0, 100, 3 * kMiB, 0, 100}, {0, 4 * kMiB, 5 * kMiB, 0, 4 * kMiB}}, true);
  std::uint64_t end = 0;
  for (const PlannedRead& read : schedule_of(plan, 4 * kMiB).reads) {
    EXPECT_GE(read.offset, end);
    end = read.offset + read.bytes;
  }
}

TEST(Schedule, ReadsOnceWhatTwoTargetsWant) {
  LoadPlan plan = plan_of(6 * kMiB, {{0, 0, 4 * kMiB, 0, 0}}, true);
  plan.extents.push_back({0, kMiB + 5, 3 * kMiB, 1, 7});
  plan.target_bytes.push_back(4 * kMiB);
  const std::vector<Target> targets{{.start = kMiB, .bytes = 4 * kMiB},
                                    {.start = 64 * kMiB, .bytes = 4 * kMiB}};
  std::uint64_t end = 0;
  std::map<std::uint64_t, std::uint64_t> bytes;
  const Schedule schedule = make_schedule(plan, targets, 2 * kMiB);
  for (const PlannedRead& read : schedule.reads) {
    EXPECT_EQ(read.offset, end);
    end = read.offset + read.bytes;
    if (read.in_place) bytes[read.target] += read.bytes;
    for (std::uint64_t p = read.first_piece; p < read.first_piece + read.pieces; ++p) {
      const Piece& piece = schedule.pieces[p];
      const Extent& extent = plan.extents[piece.target];
      EXPECT_EQ(read.offset + piece.from - extent.offset, piece.destination - extent.destination);
      bytes[piece.target] += piece.bytes;
    }
  }
  EXPECT_EQ(end, 5 * kMiB);
  EXPECT_EQ(bytes[0], 4 * kMiB);
  EXPECT_EQ(bytes[1], 3 * kMiB);
}

TEST(Schedule, ReadsInPlaceOnlyIntoHostMemoryOfNobodyElse) {
  const LoadPlan plan = plan_of(2 * kMiB, {{0, 0, 2 * kMiB, 0, 0}}, true);
  const auto in_place = [&](const Target& target) {
    return make_schedule(plan, {&target, 1}, 8 * kMiB).reads[0].in_place;
  };
  Target target{.start = kMiB, .bytes = 2 * kMiB};
  EXPECT_TRUE(in_place(target));
  target.is_exclusive = false;
  EXPECT_FALSE(in_place(target));
  HostDevice device;
  EXPECT_FALSE(in_place({.device = &device, .start = kMiB, .bytes = 2 * kMiB}));
}

TEST(Schedule, TakesEachFileAsFarAsTheOthersByTheShareOfItsBytes) {
  LoadPlan plan;
  plan.target_bytes.push_back(0);
  const std::vector<std::uint64_t> sizes{32 * kMiB, 8 * kMiB, kMiB};
  for (std::uint64_t file = 0; file < sizes.size(); ++file) {
    plan.files.push_back({.path = "f", .identity = {.bytes = sizes[file]}, .span_crcs = {}, .resident = {}});
    plan.extents.push_back({file, 0, sizes[file], 0, plan.target_bytes[0]});
    plan.target_bytes[0] += sizes[file];
  }
  const Schedule schedule = schedule_of(plan, kMiB);
  expect_delivers(plan, schedule);
  std::vector<std::uint64_t> done(sizes.size());
  for (const PlannedRead& read : schedule.reads) {
    EXPECT_EQ(read.offset, done[read.file]);
    done[read.file] += read.bytes;
    // None is ahead of the largest by more than a read of its own.
    for (std::size_t file = 0; file < sizes.size(); ++file) {
      const double share = static_cast<double>(done[file]) / static_cast<double>(sizes[file]);
      const double of_largest = static_cast<double>(done[0]) / static_cast<double>(sizes[0]);
      EXPECT_LE(share, of_largest + static_cast<double>(kMiB) / static_cast<double>(sizes[file]));
    }
  }
  EXPECT_EQ(done, sizes);
}

TEST(Plan, RefusesWhatLeavesItsFileOrItsDestination) {
  LoadPlan plan = plan_of(kMiB, {{0, 0, kMiB, 0, 0}}, true);
  validate(plan);
  for (auto spoil : std::vector<std::function<void(LoadPlan&)>>{
           [](LoadPlan& p) { p.extents[0].bytes += 1; },
           [](LoadPlan& p) { p.extents[0].offset = ~std::uint64_t{0}; },
           [](LoadPlan& p) { p.extents[0].file = 1; },
           [](LoadPlan& p) { p.target_bytes[0] -= 1; },
           [](LoadPlan& p) { p.files[0].span_crcs.push_back(0); },
           [](LoadPlan& p) { p.extents[0].target = 1; },
           [](LoadPlan& p) { p.extents.insert(p.extents.begin(), {0, 1, 1, 0, 0}); },
           [](LoadPlan& p) { p.extents[0].row_bytes = kMiB + 1; },
           [](LoadPlan& p) {
             p.extents[0].row_bytes = p.extents[0].to_pitch = p.extents[0].from_pitch = 100;
           },
       }) {
    LoadPlan spoiled = plan;
    spoil(spoiled);
    EXPECT_THROW(validate(spoiled), Error);
  }
}

}  // namespace
}  // namespace sllm
