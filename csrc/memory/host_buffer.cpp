#include "memory/host_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/size.h"
#include "memory/populate.h"

namespace sllm {

namespace {

// Memory that large starts where a huge page may, so that it can be made of them.
Mapping map_aligned(std::uint64_t bytes) {
  const std::uint64_t alignment = bytes < kHugePageBytes ? kBlockBytes : kHugePageBytes;
  const std::uint64_t reserved = checked_add(bytes, alignment - kBlockBytes);
  void* start = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    throw error_from_errno(errno, "cannot allocate " + std::to_string(bytes) + " bytes of host memory");
  }
  auto* first = static_cast<std::byte*>(start);
  auto* aligned = reinterpret_cast<std::byte*>(align_up(reinterpret_cast<std::uintptr_t>(start), alignment));
  const auto before = static_cast<std::uint64_t>(aligned - first);
  const std::uint64_t behind = reserved - before - bytes;
  if (before > 0) ::munmap(first, before);
  if (behind > 0) ::munmap(aligned + bytes, behind);
  return Mapping(aligned, bytes);
}

}  // namespace

std::shared_ptr<HostBuffer> HostBuffer::allocate(std::uint64_t bytes) {
  const std::uint64_t mapped = align_up(std::max<std::uint64_t>(bytes, 1), kBlockBytes);
  return std::shared_ptr<HostBuffer>(new HostBuffer(map_aligned(mapped), bytes));
}

void HostBuffer::note_touched(std::uint64_t count) {
  std::uint64_t touched = touched_.load(std::memory_order_relaxed);
  while (touched < count && !touched_.compare_exchange_weak(touched, count, std::memory_order_relaxed)) {
  }
}

}  // namespace sllm
