#include "memory/file_mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/mapping.h"
#include "base/size.h"

namespace sllm {

bool can_map(int fd) {
  // Extents are aligned to kBlockBytes alone, which larger pages are not.
  if (static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) > kBlockBytes) return false;
  void* start = ::mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (start == MAP_FAILED) return false;
  const Mapping probe(start, kBlockBytes);
  return true;
}

void map_in_place(int fd, std::uint64_t offset, std::span<std::byte> memory) {
  void* start = ::mmap(memory.data(), memory.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
                       static_cast<off_t>(offset));
  if (start == MAP_FAILED) {
    throw error_from_errno(
        errno, "cannot map " + std::to_string(memory.size()) + " bytes at " + std::to_string(offset));
  }
}

}  // namespace sllm
