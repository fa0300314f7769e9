#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "memory/page_choice.h"

namespace sllm {

// What memory is made of: anonymous pages of this process's own, or a memfd's, mapped shared.
enum class Backing { kPrivate, kShared };

// Faults in fresh memory, with huge pages where those come faster (PageChoice). Thread-safe.
//
// The pages' contents are left alone, so reads may land in the memory at the same time.
//
// Private memory comes in huge pages where it is advised to. Shared memory does not on most systems
// (shmem_enabled is "never" by default), but can be collapsed into them once it is there in part. That also
// takes the place around a part, as far as the memory has whole huge pages there.
class Populator {
 public:
  // All private `memory` is fit for huge pages from here on, also where a read faults it in before populate()
  // does. It outlives this object.
  explicit Populator(std::span<std::byte> memory, Backing backing = Backing::kPrivate);

  // `part` lies in the memory. Blocks until its pages are there; where the kernel cannot do that in a batch
  // (before Linux 5.14) it does nothing, and the first touch of each page faults it in.
  void populate(std::span<std::byte> part);

  // Of the bytes populated, those with huge pages asked for, for which the kernel may have given others; of
  // shared memory those that have got them.
  std::uint64_t huge_bytes() const;

 private:
  std::uint64_t bring(std::span<std::byte> part, PageKind kind);
  std::span<std::byte> with_whole_huge_pages(std::span<std::byte> part) const;

  std::span<std::byte> memory_;
  Backing backing_;
  bool can_populate_;
  mutable std::mutex mutex_;
  PageChoice choice_;
  std::uint64_t huge_bytes_ = 0;
};

}  // namespace sllm
