// One contract, every queue: what goes in comes out, whole, once, in any order.
#include "io/read_queue.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <map>

#include "base/size.h"
#include "io/file.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::random_bytes;
using testing::TemporaryFile;

constexpr std::chrono::milliseconds kPatience{2000};

class ReadQueueContract : public ::testing::TestWithParam<QueueKind> {
 protected:
  std::unique_ptr<ReadQueue> make(unsigned depth) {
    try {
      return make_read_queue(GetParam(), depth, file_.fd());
    } catch (const Error& error) {
      if (GetParam() != QueueKind::kUring || error.code() != ErrorCode::kUnsupported) throw;
      return nullptr;
    }
  }

  std::map<std::uint64_t, std::int64_t> collect(ReadQueue& queue, std::size_t expected) {
    std::map<std::uint64_t, std::int64_t> results;
    std::vector<ReadCompletion> completions(queue.depth());
    while (results.size() < expected) {
      const std::size_t count = queue.wait(completions, kPatience);
      if (count == 0) break;
      for (std::size_t i = 0; i < count; ++i) results[completions[i].tag] = completions[i].result;
    }
    return results;
  }

  std::vector<std::byte> bytes_ = random_bytes(64 * kBlockBytes + 100);
  TemporaryFile on_disk_{bytes_};
  File file_ = File::open(on_disk_.path(), FileAccess::kDirect);
};

TEST_P(ReadQueueContract, DeliversEachRequestOnceWithItsOwnBytes) {
  const auto queue = make(8);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  const auto buffer = HostBuffer::allocate(8 * kBlockBytes);
  std::vector<ReadRequest> requests;
  for (std::uint64_t i = 0; i < 8; ++i) {
    requests.push_back(
        {file_.fd(), buffer->bytes().data() + i * kBlockBytes, kBlockBytes, (63 - 7 * i) * kBlockBytes, i});
  }
  queue->submit(requests);
  const auto results = collect(*queue, requests.size());
  ASSERT_EQ(results.size(), requests.size());
  for (const ReadRequest& request : requests) {
    EXPECT_EQ(results.at(request.tag), static_cast<std::int64_t>(kBlockBytes));
    EXPECT_TRUE(std::equal(request.into, request.into + kBlockBytes, bytes_.data() + request.offset));
  }
}

TEST_P(ReadQueueContract, PassesOnThatTheFileEnds) {
  const auto queue = make(2);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  const auto buffer = HostBuffer::allocate(2 * kBlockBytes);
  const ReadRequest request{file_.fd(), buffer->bytes().data(), kBlockBytes, 64 * kBlockBytes, 7};
  queue->submit({&request, 1});
  EXPECT_EQ(collect(*queue, 1).at(7), 100);
}

TEST_P(ReadQueueContract, PassesOnErrorsAsNumbers) {
  const auto queue = make(2);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  const auto buffer = HostBuffer::allocate(kBlockBytes);
  const ReadRequest request{-1, buffer->bytes().data(), kBlockBytes, 0, 3};
  queue->submit({&request, 1});
  EXPECT_EQ(collect(*queue, 1).at(3), -EBADF);
}

TEST_P(ReadQueueContract, ReturnsEmptyHandedWhenNothingIsInFlight) {
  const auto queue = make(2);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  std::vector<ReadCompletion> completions(2);
  EXPECT_EQ(queue->wait(completions, std::chrono::milliseconds(1)), 0U);
}

TEST_P(ReadQueueContract, LeavesNoThreadAndNoDescriptor) {
  const auto descriptors = testing::open_descriptors();
  const auto threads = testing::running_threads();
  {
    const auto queue = make(8);
  }
  EXPECT_EQ(testing::open_descriptors(), descriptors);
  EXPECT_TRUE(testing::threads_come_down_to(threads));
}

INSTANTIATE_TEST_SUITE_P(Queues, ReadQueueContract,
                         ::testing::Values(QueueKind::kUring, QueueKind::kThreaded), [](const auto& each) {
                           return each.param == QueueKind::kUring ? "io_uring" : "threads";
                         });

TEST(MakeReadQueue, TakesThreadsWhereIoUringDoesNotAnswer) {
  // A descriptor that cannot be read makes the probe fail, as a forbidden operation does.
  EXPECT_EQ(make_read_queue(QueueKind::kAuto, 4, -1)->name(), "threads");
  EXPECT_THROW(make_read_queue(QueueKind::kUring, 4, -1), Error);
}

}  // namespace
}  // namespace sllm
