#include "memory/aligned_mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/size.h"

namespace sllm {

// More than is wanted is mapped, and what lies around the aligned part goes again.
Mapping map_aligned(std::uint64_t bytes, std::uint64_t alignment, int protection, int flags) {
  const std::uint64_t reserved = checked_add(bytes, alignment - kBlockBytes);
  void* start = ::mmap(nullptr, reserved, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
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

}  // namespace sllm
