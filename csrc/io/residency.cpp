#include "io/residency.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <vector>

#include "base/mapping.h"
#include "base/size.h"

namespace sllm {
namespace {

// Declared here because the build must not depend on the age of the system's headers (cachestat(2)).
constexpr long kCachestatCall = 451;

struct CachestatRange {
  std::uint64_t offset, bytes;
};

struct Cachestat {
  std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

// A few pages read again are cheaper than a whole extent from the drive.
constexpr bool is_enough(std::uint64_t cached, std::uint64_t pages) { return cached * 32 >= pages * 31; }

std::optional<std::uint64_t> count_by_cachestat(int fd, std::uint64_t offset, std::uint64_t bytes) {
  CachestatRange range{offset, bytes};
  Cachestat found{};
  if (::syscall(kCachestatCall, fd, &range, &found, 0) != 0) return std::nullopt;
  return found.cached;
}

std::uint64_t count_by_mincore(int fd, std::uint64_t offset, std::uint64_t bytes) {
  const std::uint64_t begin = align_down(offset, kBlockBytes);
  const std::uint64_t length = offset + bytes - begin;
  void* start = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(begin));
  if (start == MAP_FAILED) return 0;
  const Mapping mapping(start, length);
  std::vector<unsigned char> pages((length + kBlockBytes - 1) / kBlockBytes);
  if (::mincore(start, length, pages.data()) != 0) return 0;
  return static_cast<std::uint64_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; }));
}

}  // namespace

bool is_cached(int fd, std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return false;
  const std::uint64_t first = offset / kBlockBytes;
  const std::uint64_t pages = (offset + bytes - 1) / kBlockBytes - first + 1;
  const auto counted = count_by_cachestat(fd, offset, bytes);
  return is_enough(counted ? *counted : count_by_mincore(fd, offset, bytes), pages);
}

}  // namespace sllm
