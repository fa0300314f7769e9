#include "memory/populate.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/mapping.h"

namespace sllm {
namespace {

// Younger than some headers.
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
constexpr int kCollapse = 25;

bool advise(std::span<std::byte> memory, int advice) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size();
  return ::madvise(reinterpret_cast<void*>(begin), end - begin, advice) == 0;
}

}  // namespace

bool populate_read(std::span<std::byte> memory) { return advise(memory, kPopulateRead) || errno != EFAULT; }

void populate_write(std::span<std::byte> memory) { advise(memory, kPopulateWrite); }

bool collapse(std::span<std::byte> memory) { return advise(memory, kCollapse); }

void advise_pages(std::span<std::byte> memory, PageKind kind) {
  advise(memory, kind == PageKind::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

bool can_populate() {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* start = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return false;
  const Mapping probe(start, page);
  return ::madvise(start, page, kPopulateWrite) == 0;
}

}  // namespace sllm
