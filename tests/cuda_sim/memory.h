#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "base/mapping.h"
#include "base/unique_handle.h"
#include "device/cuda_abi.h"

namespace cuda_sim {

using sllm::Mapping;
using sllm::UniqueFd;
using sllm::cuda::Address;

// The device's pages.
inline constexpr std::uint64_t kPageBytes = 2 << 20;

// The bytes of an allocation: a memfd, whose name says which device it is of.
class Backing {
 public:
  // Nothing where the system refuses, or the descriptor is not one of ours.
  static std::shared_ptr<Backing> make(int device, std::uint64_t bytes, std::uint64_t& charged);
  static std::shared_ptr<Backing> adopt(UniqueFd fd);
  ~Backing();

  // Has the kernel find all pages now, where it can (Linux 5.14).
  void populate();

  int fd() const { return fd_.get(); }
  int device() const { return device_; }
  std::span<std::byte> bytes() const { return mapping_.span(); }

 private:
  Backing(UniqueFd fd, Mapping mapping, int device)
      : fd_(std::move(fd)), mapping_(std::move(mapping)), device_(device) {}

  UniqueFd fd_;
  Mapping mapping_;
  int device_;
  std::uint64_t* charged_ = nullptr;  // what the device has given away, this included
};

// Addresses that the host cannot touch.
class Reservation {
 public:
  // `alignment` is a power of two. Empty where the system refuses.
  static std::unique_ptr<Reservation> make(std::uint64_t bytes, std::uint64_t alignment);

  Address start() const { return start_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  Reservation(Mapping mapping, Address start, std::uint64_t bytes)
      : mapping_(std::move(mapping)), start_(start), bytes_(bytes) {}

  Mapping mapping_;
  Address start_;
  std::uint64_t bytes_;
};

enum class RegionKind { kPlain, kOpened, kPlaced };

// Addresses with bytes behind them.
struct Region {
  Address start = 0;
  std::uint64_t bytes = 0;
  RegionKind kind = RegionKind::kPlain;
  std::shared_ptr<Backing> backing;
  std::unique_ptr<Reservation> reservation;  // of kPlain and kOpened
  bool is_accessible = true;

  std::byte* at(Address address) const { return backing->bytes().data() + (address - start); }
};

// By start.
using Regions = std::map<Address, Region>;

// The region that holds all of the range, or nothing.
Region* find(Regions& regions, Address address, std::uint64_t bytes);

}  // namespace cuda_sim
