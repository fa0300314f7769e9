// One contract, every queue: what goes in comes out, whole, once, in any order.
#include "io/read_queue.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <functional>
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

TEST_P(ReadQueueContract, ReadsTheSameIntoRegisteredMemoryBesideItAndAcrossItsEdge) {
  const auto queue = make(8);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  const auto buffer = HostBuffer::allocate(8 * kBlockBytes);
  const auto memory = buffer->bytes();
  const std::vector<std::span<std::byte>> registered{memory.subspan(5 * kBlockBytes, kBlockBytes),
                                                     memory.first(3 * kBlockBytes)};
  const int fd = file_.fd();
  const Registered taken = queue->prepare({{&fd, 1}, registered});
  EXPECT_EQ(taken.bytes, GetParam() == QueueKind::kUring ? 4 * kBlockBytes : 0);
  EXPECT_EQ(taken.files, GetParam() == QueueKind::kUring ? 1U : 0U);
  const std::vector<ReadRequest> requests{
      {fd, memory.data(), 2 * kBlockBytes, 9 * kBlockBytes, 0},
      {fd, memory.data() + 2 * kBlockBytes, 2 * kBlockBytes, 30 * kBlockBytes, 1},
      {fd, memory.data() + 5 * kBlockBytes, kBlockBytes, 2 * kBlockBytes, 2},
      {fd, memory.data() + 6 * kBlockBytes, 2 * kBlockBytes, 50 * kBlockBytes, 3},
  };
  queue->submit(requests);
  const auto results = collect(*queue, requests.size());
  ASSERT_EQ(results.size(), requests.size());
  for (const ReadRequest& request : requests) {
    EXPECT_EQ(results.at(request.tag), request.bytes);
    EXPECT_TRUE(std::equal(request.into, request.into + request.bytes, bytes_.data() + request.offset));
  }
}

TEST_P(ReadQueueContract, ReadsFilesThatWereNotRegistered) {
  const auto queue = make(2);
  if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
  const File other = File::open(on_disk_.path(), FileAccess::kBuffered);
  const int fd = other.fd();
  queue->prepare({{&fd, 1}, {}});
  const auto buffer = HostBuffer::allocate(kBlockBytes);
  const ReadRequest request{file_.fd(), buffer->bytes().data(), kBlockBytes, kBlockBytes, 1};
  queue->submit({&request, 1});
  EXPECT_EQ(collect(*queue, 1).at(1), static_cast<std::int64_t>(kBlockBytes));
  EXPECT_TRUE(std::equal(request.into, request.into + kBlockBytes, bytes_.data() + kBlockBytes));
}

TEST_P(ReadQueueContract, GivesLockedMemoryBackAtOnce) {
  const auto buffer = HostBuffer::allocate(4 * kMiB);
  const std::vector<std::span<std::byte>> memory{buffer->bytes()};
  // More than any limit holds at a time, were it not for the destructor.
  for (int i = 0; i < 100; ++i) {
    const auto queue = make(2);
    if (queue == nullptr) GTEST_SKIP() << "no io_uring here";
    const Registered taken = queue->prepare({{}, memory});
    EXPECT_EQ(taken.bytes, GetParam() == QueueKind::kUring ? 4 * kMiB : 0);
  }
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

// Runs `check` in a child and returns its exit status; 2 says that it could not be set up.
int status_in_child(const std::function<int()>& check) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(check());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// As container runtimes do it: a filter that answers io_uring_setup(2) with an error.
bool forbid_io_uring(int number) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 425, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = std::size(program), .filter = program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

class ForbiddenIoUring : public ::testing::TestWithParam<int> {};

TEST_P(ForbiddenIoUring, IsReplacedByThreadsAndRefusedByNameWhereItIsForced) {
  const TemporaryFile on_disk(random_bytes(kBlockBytes));
  const int status = status_in_child([&] {
    const File file = File::open(on_disk.path(), FileAccess::kDirect);
    if (!forbid_io_uring(GetParam())) return 2;
    if (make_read_queue(QueueKind::kAuto, 2, file.fd())->name() != "threads") return 1;
    try {
      make_read_queue(QueueKind::kUring, 2, file.fd());
    } catch (const Error& error) {
      return error.code() == ErrorCode::kUnsupported ? 0 : 1;
    }
    return 1;
  });
  if (status == 2) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(status, 0);
}

INSTANTIATE_TEST_SUITE_P(Errors, ForbiddenIoUring, ::testing::Values(EPERM, ENOSYS),
                         [](const auto& each) { return each.param == EPERM ? "EPERM" : "ENOSYS"; });

TEST(UringQueue, RegistersWhatTheLockedMemoryLimitLetsIt) {
  if (::geteuid() != 0) GTEST_SKIP() << "the limit is set as root and then lived with as another user";
  const TemporaryFile on_disk(random_bytes(kBlockBytes));
  const int status = status_in_child([&] {
    const File file = File::open(on_disk.path(), FileAccess::kDirect);
    const rlimit limit{.rlim_cur = 4 * kMiB, .rlim_max = 4 * kMiB};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || ::setuid(65534) != 0) return 2;
    std::unique_ptr<ReadQueue> queue = make_read_queue(QueueKind::kAuto, 2, file.fd());
    if (queue->name() != "io_uring") return 2;
    const auto buffer = HostBuffer::allocate(16 * kMiB);
    std::vector<std::span<std::byte>> slots;
    for (std::size_t at = 0; at < 16; ++at) slots.push_back(buffer->bytes().subspan(at * kMiB, kMiB));
    const std::uint64_t bytes = queue->prepare({{}, slots}).bytes;
    return bytes > 0 && bytes <= 4 * kMiB ? 0 : 1;
  });
  if (status == 2) GTEST_SKIP() << "no io_uring or no such user here";
  EXPECT_EQ(status, 0);
}

TEST(MakeReadQueue, TakesThreadsWhereIoUringDoesNotAnswer) {
  // A descriptor that cannot be read makes the probe fail, as a forbidden operation does.
  EXPECT_EQ(make_read_queue(QueueKind::kAuto, 4, -1)->name(), "threads");
  EXPECT_THROW(make_read_queue(QueueKind::kUring, 4, -1), Error);
}

}  // namespace
}  // namespace sllm
