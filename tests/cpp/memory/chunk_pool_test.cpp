// A pool and its clients, which are real processes.
#include "memory/chunk_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <vector>

#include "base/size.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/forked_child.h"
#include "memory/populate.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::ForkedChild;
using Conversation = ForkedChild::Conversation;

constexpr std::uint64_t kChunk = 4 * kMiB;
constexpr ChunkRange kAll{0, 8};
constexpr ChunkRange kSome{2, 3};

void* map_chunks(int lease, int protection, int kind) {
  return ::mmap(nullptr, kSome.count * kChunk, protection, kind, lease, kSome.first * kChunk);
}

// A descriptor that a process has been killed with is let go a moment after its parent knows of its end.
template <typename Claim>
bool becomes_true(Claim claim) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!claim() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  return claim();
}

class ChunkPoolTest : public ::testing::Test {
 protected:
  UniqueFd lease(LeaseNumber number = 7) const { return pool_.open_lease(number, std::span(&kSome, 1)); }
  bool is_leased() const { return pool_.is_leased(kSome) && pool_.is_alive(7); }
  bool becomes_free() const {
    return becomes_true([this] { return !pool_.is_leased(kAll) && !pool_.is_alive(7); });
  }

  ChunkPool pool_{kAll.count * kChunk, kChunk};
};

TEST_F(ChunkPoolTest, RefusesSizesThatAreNotWholeChunksOfAPowerOfTwo) {
  const auto code = [](std::uint64_t bytes, std::uint64_t chunk_bytes) {
    return name_of(error_of([&] { const ChunkPool pool(bytes, chunk_bytes); }).code());
  };
  EXPECT_EQ(code(0, kChunk), "invalid");
  EXPECT_EQ(code(kChunk, 2 * kMiB), "invalid");
  EXPECT_EQ(code(kChunk, 0), "invalid");
  EXPECT_EQ(code(12 * kMiB, 12 * kMiB), "invalid");
  EXPECT_EQ(code(12 * kMiB, 8 * kMiB), "invalid");
  EXPECT_EQ(code(kChunk + kBlockBytes, kChunk), "invalid");
  EXPECT_EQ(code(std::uint64_t{1} << 63, kChunk), "invalid");
  EXPECT_EQ(code(std::uint64_t{1} << 62, kChunk), "exhausted");
}

TEST_F(ChunkPoolTest, RefusesRangesThatLeaveIt) {
  const auto code = [this](ChunkRange range) {
    return name_of(error_of([&] { pool_.open_lease(1, std::span(&range, 1)); }).code());
  };
  EXPECT_EQ(code({0, 0}), "invalid");
  EXPECT_EQ(code({0, 9}), "invalid");
  EXPECT_EQ(code({8, 1}), "invalid");
  EXPECT_EQ(code({1, ~std::uint64_t{0}}), "invalid");
  EXPECT_EQ(name_of(error_of([&] { pool_.is_leased({0, 0}); }).code()), "invalid");
  EXPECT_EQ(name_of(error_of([&] { pool_.memory({5, 4}); }).code()), "invalid");
  EXPECT_EQ(name_of(error_of([&] { pool_.note_touched({8, 1}); }).code()), "invalid");
  EXPECT_EQ(name_of(error_of([&] { lease(~LeaseNumber{0}); }).code()), "invalid");
  EXPECT_FALSE(pool_.is_leased(kAll));
}

TEST_F(ChunkPoolTest, TouchesNothingAndStartsWhereAHugePageMay) {
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pool_.memory().data()) % kHugePageBytes, 0U);
  EXPECT_EQ(pool_.memory().size(), kAll.count * kChunk);
  struct stat file{};
  ASSERT_EQ(::fstat(lease().get(), &file), 0);
  EXPECT_EQ(file.st_blocks, 0);
}

TEST_F(ChunkPoolTest, CountsEachChunkThatIsTouchedOnce) {
  EXPECT_FALSE(pool_.is_touched(3));
  pool_.note_touched({2, 2});
  pool_.note_touched({3, 2});
  EXPECT_EQ(pool_.touched_chunks(), 3U);
  EXPECT_TRUE(pool_.is_touched(3));
  EXPECT_FALSE(pool_.is_touched(5));
}

TEST_F(ChunkPoolTest, LeasesWhatIsAskedForAndNothingElse) {
  const std::vector<ChunkRange> ranges{{0, 1}, {4, 2}};
  const UniqueFd lease = pool_.open_lease(7, ranges);
  EXPECT_TRUE(pool_.is_leased({0, 1}));
  EXPECT_FALSE(pool_.is_leased({1, 3}));
  EXPECT_TRUE(pool_.is_leased({3, 2}));
  EXPECT_TRUE(pool_.is_leased({5, 1}));
  EXPECT_FALSE(pool_.is_leased({6, 2}));
}

TEST_F(ChunkPoolTest, TellsEachLeaseByItsOwnByte) {
  UniqueFd first = lease(1);
  const UniqueFd second = lease(2);
  const UniqueFd of_nothing = pool_.open_lease(LeaseNumber{1} << 40, {});
  first = UniqueFd();
  EXPECT_FALSE(pool_.is_alive(1));
  EXPECT_TRUE(pool_.is_alive(2));
  EXPECT_TRUE(pool_.is_alive(LeaseNumber{1} << 40));
  EXPECT_FALSE(pool_.is_alive(3));
  EXPECT_TRUE(pool_.is_leased(kSome));
}

TEST_F(ChunkPoolTest, ALeaseIsClosedOnExecReadOnlyAndShowsWhatThePoolHas) {
  const UniqueFd lease = this->lease();
  EXPECT_EQ(::fcntl(lease.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(::fcntl(lease.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  pool_.memory(kSome)[5] = std::byte{9};
  std::byte seen{};
  EXPECT_EQ(::pread(lease.get(), &seen, 1, kSome.first * kChunk + 5), 1);
  EXPECT_EQ(seen, std::byte{9});
}

TEST_F(ChunkPoolTest, ALeaseDiesWithAKilledProcessAndNotBefore) {
  UniqueFd lease = this->lease();
  ForkedChild client([&](const Conversation& parent) {
    parent.say();
    parent.await();
    return 0;
  });
  lease = UniqueFd();
  client.await();
  EXPECT_TRUE(is_leased());
  client.kill();
  EXPECT_TRUE(becomes_free());
}

TEST_F(ChunkPoolTest, ALeaseStaysWithAMappingAloneAndInAForkedChildOfIt) {
  UniqueFd lease = this->lease();
  ForkedChild client([&](const Conversation& parent) {
    void* chunks = map_chunks(lease.get(), PROT_READ | PROT_WRITE, MAP_PRIVATE);
    lease = UniqueFd();
    ForkedChild grandchild([&](const Conversation& client_itself) {
      client_itself.await();
      return 0;
    });
    ::munmap(chunks, kSome.count * kChunk);
    parent.say();
    parent.await();
    grandchild.kill();
    parent.say();
    parent.await();
    return 0;
  });
  lease = UniqueFd();
  client.await();
  EXPECT_TRUE(is_leased());
  client.say();
  client.await();
  EXPECT_TRUE(becomes_free());
}

TEST_F(ChunkPoolTest, ALeaseGoesWithTheLastUnmapping) {
  UniqueFd lease = this->lease();
  void* first = map_chunks(lease.get(), PROT_READ | PROT_WRITE, MAP_PRIVATE);
  void* second = map_chunks(lease.get(), PROT_READ, MAP_PRIVATE);
  ASSERT_NE(first, MAP_FAILED);
  ASSERT_NE(second, MAP_FAILED);
  *static_cast<volatile char*>(first) = 1;  // a page that was copied does not keep it, the mapping does
  lease = UniqueFd();
  ::munmap(second, kSome.count * kChunk);
  EXPECT_TRUE(is_leased());
  ::munmap(static_cast<std::byte*>(first) + kChunk, (kSome.count - 1) * kChunk);
  EXPECT_TRUE(is_leased());
  ::munmap(first, kChunk);
  EXPECT_FALSE(is_leased());
  EXPECT_TRUE(becomes_free());
}

// Each way to change the bytes that a descriptor leads to; how many of them worked.
int ways_to_write(int fd) {
  const char byte = 1;
  int ways = 0;
  ways += ::pwrite(fd, &byte, 1, 0) >= 0;
  ways += ::ftruncate(fd, 0) == 0;
  ways += ::ftruncate(fd, 100 * kChunk) == 0;
  ways += ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kChunk) == 0;
  ways += map_chunks(fd, PROT_READ | PROT_WRITE, MAP_SHARED) != MAP_FAILED;
  void* shared = map_chunks(fd, PROT_READ, MAP_SHARED);
  ways += shared != MAP_FAILED && ::mprotect(shared, kChunk, PROT_READ | PROT_WRITE) == 0;
  return ways;
}

int reopen(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  ::fchmod(fd, 0666);
  return ::open(path.c_str(), O_RDWR | O_CLOEXEC);
}

TEST_F(ChunkPoolTest, AClientHasNoWayToWrite) {
  const UniqueFd lease = this->lease();
  ForkedChild client([&](const Conversation&) { return ways_to_write(lease.get()); });
  EXPECT_EQ(client.wait(), 0);
  // Who runs as the pool's owner, or as root, gets it open for writing; the seals refuse the rest.
  ForkedChild owner([&](const Conversation&) {
    const int opened = reopen(lease.get());
    return opened < 0 ? 100 : ways_to_write(opened);
  });
  EXPECT_EQ(owner.wait(), 0);
}

TEST_F(ChunkPoolTest, AnotherUserCannotReopenItAtAll) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const UniqueFd lease = this->lease();
  struct stat file{};
  ASSERT_EQ(::fstat(lease.get(), &file), 0);
  EXPECT_EQ(file.st_mode & 07777, S_IRUSR);
  ForkedChild stranger([&](const Conversation&) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return 100;
    return ways_to_write(lease.get()) + (reopen(lease.get()) >= 0);
  });
  EXPECT_EQ(stranger.wait(), 0);
}

TEST_F(ChunkPoolTest, ItsOwnerStillWritesAndClientsSeeIt) {
  const UniqueFd lease = this->lease();
  const auto* seen = static_cast<const std::byte*>(map_chunks(lease.get(), PROT_READ, MAP_PRIVATE));
  ASSERT_NE(static_cast<const void*>(seen), MAP_FAILED);
  const auto bytes = testing::random_bytes(kSome.count * kChunk);
  std::copy(bytes.begin(), bytes.end(), pool_.memory(kSome).begin());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), seen));
  ::munmap(const_cast<std::byte*>(seen), kSome.count * kChunk);
}

TEST_F(ChunkPoolTest, LeavesNoDescriptorBehind) {
  const auto before = testing::open_descriptors();
  {
    const ChunkPool pool(kChunk, kChunk);
  }
  lease();
  EXPECT_EQ(testing::open_descriptors(), before);
}

}  // namespace
}  // namespace sllm
