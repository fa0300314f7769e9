#include "memory/host_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/size.h"

namespace sllm {

std::shared_ptr<HostBuffer> HostBuffer::allocate(std::uint64_t bytes) {
  const std::uint64_t mapped = align_up(std::max<std::uint64_t>(bytes, 1), kBlockBytes);
  void* start = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    throw error_from_errno(errno, "cannot allocate " + std::to_string(bytes) + " bytes of host memory");
  }
  return std::shared_ptr<HostBuffer>(new HostBuffer(Mapping(start, mapped), bytes));
}

}  // namespace sllm
