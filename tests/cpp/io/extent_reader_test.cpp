// The fault matrix: each fault at each request, over both queues.
#include "io/extent_reader.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "base/size.h"
#include "io/faulty_queue.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::Fault;
using testing::FaultyQueue;
using testing::random_bytes;
using testing::TemporaryFile;

constexpr std::uint64_t kExtentBytes = 8 * kBlockBytes;
constexpr std::size_t kExtents = 12;
constexpr std::chrono::milliseconds kPatience{2000};

struct Matrix {
  QueueKind kind;
  FileAccess access;
};

class ExtentReaderMatrix : public ::testing::TestWithParam<Matrix> {
 protected:
  // Reads the whole file with the fault at the n-th request; returns the tags in order of completion.
  std::vector<std::uint64_t> read_all(Fault fault, std::size_t at) {
    FaultyQueue queue(make_read_queue(GetParam().kind, 4, file_.fd()), fault, at);
    ExtentReader reader(queue);
    std::vector<std::uint64_t> tags;
    for (std::uint64_t next = 0; next < kExtents || reader.in_flight() > 0;) {
      for (; next < kExtents && reader.has_room(); ++next) {
        const std::uint64_t offset = next * kExtentBytes;
        const std::uint64_t bytes = std::min(kExtentBytes, bytes_.size() - offset);
        reader.add({&file_, buffer_->bytes().data() + offset, offset, bytes, next});
      }
      for (const std::uint64_t tag : reader.wait(kPatience)) tags.push_back(tag);
    }
    repeats_ = reader.repeats();
    return tags;
  }

  void expect_all_bytes(const std::vector<std::uint64_t>& tags) {
    EXPECT_EQ(tags.size(), kExtents);
    EXPECT_EQ(std::set<std::uint64_t>(tags.begin(), tags.end()).size(), kExtents);
    EXPECT_TRUE(std::equal(bytes_.begin(), bytes_.end(), buffer_->bytes().begin()));
  }

  // The last extent ends inside a block.
  std::vector<std::byte> bytes_ = random_bytes(kExtents * kExtentBytes - 1000);
  TemporaryFile on_disk_{bytes_};
  File file_ = File::open(on_disk_.path(), GetParam().access);
  std::shared_ptr<HostBuffer> buffer_ = HostBuffer::allocate(kExtents * kExtentBytes);
  std::uint64_t repeats_ = 0;
};

TEST_P(ExtentReaderMatrix, ReadsEveryByteWithoutFaults) {
  expect_all_bytes(read_all(Fault::kNone, 0));
  EXPECT_EQ(repeats_, 0U);
}

TEST_P(ExtentReaderMatrix, AsksAgainAfterShortReadsAndInterruptions) {
  for (const Fault fault : {Fault::kShort, Fault::kInterrupted, Fault::kTryAgain}) {
    for (std::size_t at = 0; at < kExtents; ++at) {
      buffer_ = HostBuffer::allocate(kExtents * kExtentBytes);
      expect_all_bytes(read_all(fault, at));
      EXPECT_EQ(repeats_, 1U);
    }
  }
}

TEST_P(ExtentReaderMatrix, TakesCompletionsInAnyOrder) {
  for (std::size_t at = 0; at < kExtents; ++at) {
    buffer_ = HostBuffer::allocate(kExtents * kExtentBytes);
    expect_all_bytes(read_all(Fault::kStall, at));
  }
  buffer_ = HostBuffer::allocate(kExtents * kExtentBytes);
  expect_all_bytes(read_all(Fault::kReversed, 0));
}

TEST_P(ExtentReaderMatrix, FailsWithTheFilesNameAndLeavesNothingInFlight) {
  for (const auto& [fault, code] :
       {std::pair{Fault::kIoError, ErrorCode::kIo}, {Fault::kEndOfFile, ErrorCode::kCorrupt}}) {
    for (std::size_t at = 0; at < kExtents; ++at) {
      const auto threads = testing::running_threads();
      const auto descriptors = testing::open_descriptors();
      try {
        read_all(fault, at);
        ADD_FAILURE() << "fault at " << at << " went unnoticed";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), code);
        EXPECT_NE(std::string(error.what()).find(on_disk_.path()), std::string::npos);
      }
      EXPECT_TRUE(testing::threads_come_down_to(threads));
      EXPECT_EQ(testing::open_descriptors(), descriptors);
    }
  }
}

TEST_P(ExtentReaderMatrix, SaysWhereATruncatedFileEnds) {
  std::filesystem::resize_file(on_disk_.path(), 3 * kExtentBytes + 100);
  try {
    read_all(Fault::kNone, 0);
    ADD_FAILURE() << "the truncation went unnoticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_NE(std::string(error.what()).find("the file ends at"), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Queues, ExtentReaderMatrix,
                         ::testing::Values(Matrix{QueueKind::kAuto, FileAccess::kDirect},
                                           Matrix{QueueKind::kAuto, FileAccess::kBuffered},
                                           Matrix{QueueKind::kThreaded, FileAccess::kDirect},
                                           Matrix{QueueKind::kThreaded, FileAccess::kBuffered}),
                         [](const auto& each) {
                           return std::string(each.param.kind == QueueKind::kAuto ? "auto" : "threads") +
                                  (each.param.access == FileAccess::kDirect ? "_direct" : "_buffered");
                         });

}  // namespace
}  // namespace sllm
