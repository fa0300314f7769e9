#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/mapping.h"

namespace sllm {

// Page-aligned, zero-filled memory of the process's own, not touched before it is used.
//
// Shared by everything that points into it: each tensor handed over holds one reference, the last one
// unmaps it. Thread-safe, but for its bytes: who writes them when is the holders' agreement.
class HostBuffer {
 public:
  // Throws exhausted, naming the size.
  static std::shared_ptr<HostBuffer> allocate(std::uint64_t bytes);

  std::span<std::byte> bytes() const { return {mapping_.start(), bytes_}; }

  // Whether the first `count` bytes have been touched, as far as it was told: a load tells it what it filled.
  bool is_touched(std::uint64_t count) const { return count <= touched_.load(std::memory_order_relaxed); }
  void note_touched(std::uint64_t count);

 private:
  HostBuffer(Mapping mapping, std::size_t bytes) : mapping_(std::move(mapping)), bytes_(bytes) {}

  Mapping mapping_;
  std::size_t bytes_;
  std::atomic<std::uint64_t> touched_{0};
};

}  // namespace sllm
