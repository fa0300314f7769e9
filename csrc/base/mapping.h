#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>
#include <utility>

namespace sllm {

// Sole owner of one mmap()ed range.
class Mapping {
 public:
  Mapping() = default;
  // Takes over what mmap() returned.
  Mapping(void* start, std::size_t bytes) : start_(static_cast<std::byte*>(start)), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : start_(std::exchange(other.start_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      start_ = std::exchange(other.start_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { unmap(); }

  std::byte* start() const { return start_; }
  std::size_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {start_, bytes_}; }

 private:
  void unmap() {
    if (start_ != nullptr) ::munmap(start_, bytes_);
  }

  std::byte* start_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace sllm
