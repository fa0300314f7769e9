#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "memory/page_choice.h"

namespace sllm {

// Faults in fresh memory, with huge pages where those come faster (PageChoice). Thread-safe.
//
// The pages' contents are left alone, so reads may land in the memory at the same time.
class Populator {
 public:
  // All of `memory` is fit for huge pages from here on, also where a read faults it in before populate()
  // does. It outlives this object.
  explicit Populator(std::span<std::byte> memory);

  // `part` lies in the memory. Blocks until its pages are there; where the kernel cannot do that in a batch
  // (before Linux 5.14) it does nothing, and the first touch of each page faults it in.
  void populate(std::span<std::byte> part);

  // Of the bytes populated, those with huge pages asked for. The kernel may have given others.
  std::uint64_t huge_bytes() const;

 private:
  std::span<std::byte> with_whole_huge_pages(std::span<std::byte> part) const;

  std::span<std::byte> memory_;
  bool can_populate_;
  mutable std::mutex mutex_;
  PageChoice choice_;
  std::uint64_t huge_bytes_ = 0;
};

}  // namespace sllm
