#include "memory/prefaulter.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>

#include "base/size.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"
#include "memory/populate.h"

namespace sllm {
namespace {

using Pieces = std::vector<std::span<std::byte>>;

std::size_t resident_pages(std::span<std::byte> memory) {
  std::vector<unsigned char> pages(memory.size() / kBlockBytes);
  EXPECT_EQ(::mincore(memory.data(), memory.size(), pages.data()), 0);
  return static_cast<std::size_t>(std::count(pages.begin(), pages.end(), 1));
}

Pieces cut(std::span<std::byte> memory, std::size_t bytes) {
  Pieces pieces;
  for (std::size_t at = 0; at < memory.size(); at += bytes) pieces.push_back(memory.subspan(at, bytes));
  return pieces;
}

bool becomes_resident(std::span<std::byte> memory) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (resident_pages(memory) < memory.size() / kBlockBytes &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  return resident_pages(memory) == memory.size() / kBlockBytes;
}

TEST(Prefaulter, BringsInEveryPageWithoutBeingAskedTwice) {
  if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  const auto buffer = HostBuffer::allocate(24 * kMiB);
  Populator populator(buffer->bytes());
  const Prefaulter prefaulter(cut(buffer->bytes(), 3 * kMiB), populator);
  EXPECT_TRUE(becomes_resident(buffer->bytes()));
  EXPECT_EQ(prefaulter.threads(), 1U);
}

TEST(Prefaulter, LeavesBytesAloneThatAreThereBeforeIt) {
  const auto buffer = HostBuffer::allocate(16 * kMiB);
  std::fill(buffer->bytes().begin(), buffer->bytes().end(), std::byte{5});
  Populator populator(buffer->bytes());
  {
    const Prefaulter prefaulter(cut(buffer->bytes(), kMiB), populator);
    EXPECT_TRUE(becomes_resident(buffer->bytes()));
  }
  EXPECT_EQ(std::count(buffer->bytes().begin(), buffer->bytes().end(), std::byte{5}), 16 * kMiB);
}

TEST(Prefaulter, SkipsAllThatIsTakenFromIt) {
  const auto buffer = HostBuffer::allocate(8 * kMiB);
  Populator populator(buffer->bytes());
  // An empty first piece, so that whatever the threads do before skip() touches nothing.
  Pieces pieces{buffer->bytes().first(0)};
  const auto threads = testing::running_threads();
  {
    Prefaulter prefaulter(pieces, populator);
    prefaulter.skip(1);
  }
  EXPECT_TRUE(testing::threads_come_down_to(threads));
  EXPECT_EQ(resident_pages(buffer->bytes()), 0U);
}

TEST(Populator, CountsWhatItDid) {
  if (!can_populate()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  const auto buffer = HostBuffer::allocate(8 * kMiB);
  Populator populator(buffer->bytes());
  for (const auto piece : cut(buffer->bytes(), 2 * kMiB)) populator.populate(piece);
  EXPECT_EQ(resident_pages(buffer->bytes()), 8 * kMiB / kBlockBytes);
  EXPECT_GE(populator.huge_bytes(), 2 * kMiB);
  EXPECT_LE(populator.huge_bytes(), 8 * kMiB);
}

TEST(HostBuffer, StartsWhereAHugePageMayWhenItIsLargeEnoughForOne) {
  for (const std::uint64_t bytes : {2 * kMiB, 5 * kMiB + 17, 64 * kMiB}) {
    const auto buffer = HostBuffer::allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->bytes().data()) % kHugePageBytes, 0U);
    EXPECT_EQ(buffer->bytes().size(), bytes);
    buffer->bytes()[bytes - 1] = std::byte{1};
  }
}

TEST(HostBuffer, RemembersHowFarItWasTouched) {
  const auto buffer = HostBuffer::allocate(kMiB);
  EXPECT_FALSE(buffer->is_touched(1));
  buffer->note_touched(100);
  buffer->note_touched(50);
  EXPECT_TRUE(buffer->is_touched(100));
  EXPECT_FALSE(buffer->is_touched(101));
}

}  // namespace
}  // namespace sllm
