#include "load/pipeline.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <tuple>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "io/faulty_queue.h"
#include "io/temporary_file.h"
#include "load/staging.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::Fault;
using testing::FaultyQueue;
using testing::random_bytes;
using testing::TemporaryFile;

void never() {}

std::vector<std::uint32_t> crcs_of(std::span<const std::byte> bytes) {
  std::vector<std::uint32_t> crcs;
  for (std::size_t at = 0; at < bytes.size(); at += kSpanBytes) {
    crcs.push_back(crc32c(bytes.subspan(at, std::min<std::size_t>(kSpanBytes, bytes.size() - at))));
  }
  return crcs;
}

class PipelineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    plan_.files.push_back(
        {.path = on_disk_.path(), .identity = identity(), .span_crcs = crcs_of(bytes_), .resident = {}});
    // As a converted file lies: a large aligned run, and small tensors apart, behind it.
    plan_.extents.push_back({0, kBlockBytes, kLarge, 0, kBlockBytes});
    const std::uint64_t behind = kBlockBytes + kLarge;
    plan_.extents.push_back({0, behind, 100, 0, align_up(behind, kBlockBytes) + kBlockBytes});
    plan_.extents.push_back({0, behind + 100, 37, 0, align_up(behind, kBlockBytes) + kBlockBytes + 128});
    plan_.target_bytes = {align_up(behind, kBlockBytes) + kBlockBytes + 128 + 37};
    options_.extent_bytes = kMiB;
    options_.depth = 4;
  }

  FileIdentity identity() const { return File::open(on_disk_.path(), FileAccess::kBuffered).identity(); }

  LoadReport run(const Interrupt& interrupt = never) {
    destination_ = HostBuffer::allocate(plan_.target_bytes[0]);
    return load_again(interrupt);
  }

  LoadReport load_again(const Interrupt& interrupt = never) {
    const Target target = Target::in_host(destination_->bytes());
    return load(plan_, {&target, 1}, options_, interrupt);
  }

  void expect_delivered() {
    for (const Extent& extent : plan_.extents) {
      EXPECT_TRUE(std::equal(bytes_.begin() + static_cast<long>(extent.offset),
                             bytes_.begin() + static_cast<long>(extent.offset + extent.bytes),
                             destination_->bytes().begin() + static_cast<long>(extent.destination)));
    }
  }

  void fail_at(Fault fault, std::size_t at, QueueKind kind = QueueKind::kAuto) {
    options_.queue = [fault, at, kind](unsigned depth, int fd) {
      return std::make_unique<FaultyQueue>(make_read_queue(kind, depth, fd), fault, at);
    };
  }

  // As a plain file lies: nothing is aligned, so every read is staged.
  void lay_apart() {
    for (Extent& extent : plan_.extents) extent.destination += 64;
    plan_.target_bytes[0] += 64;
  }

  // Runs a load that must fail so, and checks that it leaves nothing behind.
  void expect_failure(ErrorCode code, const std::string& text, const Interrupt& interrupt = never) {
    const auto threads = testing::running_threads();
    const auto descriptors = testing::open_descriptors();
    try {
      run(interrupt);
      ADD_FAILURE() << "expected: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(name_of(error.code()), name_of(code));
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
    EXPECT_TRUE(testing::threads_come_down_to(threads));
    EXPECT_EQ(testing::open_descriptors(), descriptors);
  }

  void flip_byte(std::uint64_t offset) {
    std::fstream file(on_disk_.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<long>(offset));
    file.put(static_cast<char>(std::to_integer<int>(bytes_[offset]) ^ 1));
    file.close();
    plan_.files[0].identity = identity();
  }

  void restore() {
    std::ofstream(on_disk_.path(), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), static_cast<long>(bytes_.size()));
    plan_.files[0].identity = identity();
  }

  static constexpr std::uint64_t kLarge = 7 * kMiB + 64 * 5;
  static constexpr std::size_t kReads = 8;
  std::vector<std::byte> bytes_ = random_bytes(kBlockBytes + kLarge + 137);
  TemporaryFile on_disk_{bytes_};
  LoadPlan plan_;
  LoadOptions options_;
  std::shared_ptr<HostBuffer> destination_;
};

TEST_F(PipelineTest, DeliversAndVerifiesEveryByteOverEitherQueue) {
  for (const QueueKind kind : {QueueKind::kAuto, QueueKind::kThreaded}) {
    for (const FileAccess access : {FileAccess::kDirect, FileAccess::kBuffered}) {
      options_.queue = queue_factory(kind);
      options_.access = access;
      const LoadReport report = run();
      expect_delivered();
      EXPECT_EQ(report.bytes_verified, bytes_.size());
      EXPECT_EQ(report.bytes_read, bytes_.size());
      EXPECT_GT(report.bytes_in_place, bytes_.size() / 2);
      EXPECT_LE(report.deepest, options_.depth);
      EXPECT_EQ(report.reads, kReads);
    }
  }
}

TEST_F(PipelineTest, DeliversWithoutCrcs) {
  plan_.files[0].span_crcs.clear();
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy, CacheUse::kMapCached, CacheUse::kMap}) {
    options_.cache = cache;
    EXPECT_EQ(run().bytes_verified, 0U);
    expect_delivered();
  }
}

TEST_F(PipelineTest, TakesFromThePageCacheWhatItHasAndTheRestFromTheDrive) {
  for (const CacheUse cache : {CacheUse::kCopy, CacheUse::kMapCached, CacheUse::kMap}) {
    options_.cache = cache;
    testing::evict(on_disk_.path());
    const LoadReport cold = run();
    expect_delivered();
    EXPECT_EQ(cold.bytes_verified, bytes_.size());
    EXPECT_EQ(cold.bytes_cached, 0U);
    EXPECT_EQ(cold.bytes_mapped > 0, cache == CacheUse::kMap);
    testing::read_once(on_disk_.path());
    const LoadReport warm = run();
    expect_delivered();
    EXPECT_EQ(warm.bytes_verified, bytes_.size());
    EXPECT_EQ(warm.bytes_cached + warm.bytes_mapped, bytes_.size());
    EXPECT_EQ(warm.bytes_mapped > 0, cache != CacheUse::kCopy);
  }
}

TEST_F(PipelineTest, KeepsTheFileAsItIsWhenMappedBytesAreWrittenTo) {
  options_.cache = CacheUse::kMap;
  run();
  std::fill(destination_->bytes().begin(), destination_->bytes().end(), std::byte{7});
  run();
  expect_delivered();
}

TEST_F(PipelineTest, FillsABufferAgainWithoutFaultingItIn) {
  run();
  options_.is_fresh = false;
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy}) {
    options_.cache = cache;
    const LoadReport report = load_again();
    expect_delivered();
    EXPECT_EQ(report.prefault_s, 0);
  }
}

TEST_F(PipelineTest, ReadsStagedBytesThroughSlotsThatAreRegisteredWhereThatPays) {
  lay_apart();
  options_.depth = 1;
  for (const bool registers : {true, false}) {
    options_.registers = registers;
    const LoadReport report = run();
    expect_delivered();
    EXPECT_EQ(report.bytes_in_place, 0U);
    const bool may_register = registers && report.queue == "io_uring";
    EXPECT_LE(report.bytes_registered, may_register ? 2 * kMiB : 0);
  }
}

// The fault matrix, over both queues, in place and staged.
class PipelineFaults : public PipelineTest,
                       public ::testing::WithParamInterface<std::tuple<QueueKind, bool>> {
 protected:
  void SetUp() override {
    PipelineTest::SetUp();
    if (std::get<bool>(GetParam())) lay_apart();
  }
  QueueKind kind() const { return std::get<QueueKind>(GetParam()); }
};

TEST_P(PipelineFaults, SurvivesShortReadsInterruptionsAndDisorderAtEveryRead) {
  for (const Fault fault :
       {Fault::kShort, Fault::kInterrupted, Fault::kTryAgain, Fault::kStall, Fault::kReversed}) {
    for (std::size_t at = 0; at < kReads; ++at) {
      fail_at(fault, at, kind());
      run();
      expect_delivered();
    }
  }
}

TEST_P(PipelineFaults, FailsCleanlyWhereverTheDriveFails) {
  for (std::size_t at = 0; at < kReads; ++at) {
    fail_at(Fault::kIoError, at, kind());
    expect_failure(ErrorCode::kIo, on_disk_.path());
    fail_at(Fault::kEndOfFile, at, kind());
    expect_failure(ErrorCode::kCorrupt, "the file ends at");
  }
}

INSTANTIATE_TEST_SUITE_P(Queues, PipelineFaults,
                         ::testing::Combine(::testing::Values(QueueKind::kAuto, QueueKind::kThreaded),
                                            ::testing::Bool()),
                         [](const auto& each) {
                           const bool is_auto = std::get<QueueKind>(each.param) == QueueKind::kAuto;
                           return std::string(is_auto ? "auto" : "threads") +
                                  (std::get<bool>(each.param) ? "_staged" : "_in_place");
                         });

TEST_F(PipelineTest, NamesTheDamagedRangeWhereverAByteFlips) {
  for (const std::uint64_t at : {std::uint64_t{0}, kBlockBytes, 3 * kMiB + 5, bytes_.size() - 1}) {
    flip_byte(at);
    const std::uint64_t begin = align_down(at, kSpanBytes);
    for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy, CacheUse::kMap}) {
      options_.cache = cache;
      expect_failure(ErrorCode::kCorrupt, "bytes " + std::to_string(begin) + " to ");
    }
    restore();
  }
}

TEST_F(PipelineTest, CheckListsEveryDamagedSpan) {
  flip_byte(2 * kMiB);
  flip_byte(5 * kMiB + 9);
  const CheckResult result = check(plan_, options_, never);
  EXPECT_EQ(result.bad_spans, (std::vector<BadSpan>{{0, 2}, {0, 5}}));
  EXPECT_EQ(result.report.bytes_verified, bytes_.size());
}

TEST_F(PipelineTest, RefusesAFileThatChangedSinceItWasPlanned) {
  plan_.files[0].identity.modified_ns -= 1;
  expect_failure(ErrorCode::kCorrupt, "changed while it was being loaded");
}

TEST_F(PipelineTest, RefusesAFileThatIsReplacedWhileItIsRead) {
  bool is_replaced = false;
  expect_failure(ErrorCode::kCorrupt, "changed while it was being loaded", [&] {
    if (std::exchange(is_replaced, true)) return;
    std::filesystem::copy_file(on_disk_.path(), on_disk_.path() + ".copy");
    std::filesystem::rename(on_disk_.path() + ".copy", on_disk_.path());
  });
}

TEST_F(PipelineTest, RefusesAFileThatIsTruncatedAfterItWasOpened) {
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy, CacheUse::kMap}) {
    options_.cache = cache;
    // The first look for an interruption comes when the files are open, and before the first read.
    expect_failure(ErrorCode::kCorrupt, on_disk_.path(),
                   [this] { std::filesystem::resize_file(on_disk_.path(), 3 * kMiB); });
    restore();
  }
}

TEST_F(PipelineTest, EndsAtEveryInterruptionWhereverItsBytesComeFrom) {
  options_.depth = 1;  // so that there is at least one look a read
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy, CacheUse::kMap}) {
    options_.cache = cache;
    const int looks = cache == CacheUse::kNone ? static_cast<int>(kReads) : 1;
    for (int at = 0; at < looks; ++at) {
      testing::read_once(on_disk_.path());
      int calls = 0;
      expect_failure(ErrorCode::kCancelled, "enough", [&] {
        if (calls++ == at) throw Error(ErrorCode::kCancelled, "enough");
      });
    }
  }
}

TEST_F(PipelineTest, ReadsNothingThroughAQueueThatThePageCacheHas) {
  options_.cache = CacheUse::kCopy;
  options_.queue = [](unsigned, int) -> std::unique_ptr<ReadQueue> {
    throw Error(ErrorCode::kInternal, "nobody needs a queue");
  };
  testing::read_once(on_disk_.path());
  EXPECT_EQ(run().queue, "none");
  expect_delivered();
}

TEST_F(PipelineTest, RefusesOptionsOutOfRange) {
  options_.extent_bytes = kMiB + 1;
  expect_failure(ErrorCode::kInvalid, "whole spans");
  options_.extent_bytes = kMiB;
  options_.depth = 0;
  expect_failure(ErrorCode::kInvalid, "depth 0");
}

TEST_F(PipelineTest, SaysWhichFileIsMissing) {
  plan_.files[0].path += ".gone";
  expect_failure(ErrorCode::kNotFound, ".gone");
}

TEST(StagingPool, RefusesInsteadOfGrowingAndTakesSlotsBack) {
  StagingPool pool(2, kMiB);
  auto first = pool.try_acquire();
  {
    auto second = pool.try_acquire();
    EXPECT_TRUE(static_cast<bool>(second));
    EXPECT_FALSE(static_cast<bool>(pool.try_acquire()));
  }
  EXPECT_TRUE(static_cast<bool>(pool.try_acquire()));
}

}  // namespace
}  // namespace sllm
