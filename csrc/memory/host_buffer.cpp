#include "memory/host_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "base/size.h"
#include "memory/aligned_mapping.h"
#include "memory/populate.h"

namespace sllm {

std::shared_ptr<HostBuffer> HostBuffer::allocate(std::uint64_t bytes) {
  const std::uint64_t mapped = align_up(std::max<std::uint64_t>(bytes, 1), kBlockBytes);
  // Memory that large starts where a huge page may, so that it can be made of them.
  const std::uint64_t alignment = mapped < kHugePageBytes ? kBlockBytes : kHugePageBytes;
  return std::shared_ptr<HostBuffer>(
      new HostBuffer(map_aligned(mapped, alignment, PROT_READ | PROT_WRITE), bytes));
}

void HostBuffer::note_touched(std::uint64_t count) {
  std::uint64_t touched = touched_.load(std::memory_order_relaxed);
  while (touched < count && !touched_.compare_exchange_weak(touched, count, std::memory_order_relaxed)) {
  }
}

}  // namespace sllm
