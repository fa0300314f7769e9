#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "device/device.h"
#include "memory/populator.h"

namespace sllm {

// Memory that a load fills; its owner keeps it, and the device, until the load is over.
struct Target {
  Device* device = nullptr;  // null: host memory
  DeviceAddress start = 0;
  std::uint64_t bytes = 0;
  // Nothing else lies in its first and last block, so that a direct read may write whole blocks.
  bool is_exclusive = true;
  // Of exclusive host memory: what it is made of (no file is mapped into shared memory), and where nobody has
  // touched it, without overlaps and by address. Of fresh memory (LoadOptions) that much is faulted in ahead
  // of reads, all of it where no place is named.
  Backing backing = Backing::kPrivate;
  std::span<const std::span<std::byte>> untouched = {};

  static Target in_host(std::span<std::byte> memory) {
    return {.start = reinterpret_cast<DeviceAddress>(memory.data()), .bytes = memory.size()};
  }
  bool is_host() const { return device == nullptr; }
  // Whether any of these bytes of host memory was never touched, as far as was said.
  bool is_fresh_at(std::uint64_t offset, std::uint64_t count) const {
    if (untouched.empty()) return true;
    const std::byte* begin = at(offset);
    const auto place = std::partition_point(untouched.begin(), untouched.end(), [&](const auto& before) {
      return before.data() + before.size() <= begin;
    });
    return place != untouched.end() && place->data() < begin + count;
  }
  // Of host memory only.
  std::byte* at(std::uint64_t offset) const { return reinterpret_cast<std::byte*>(start + offset); }
};

}  // namespace sllm
